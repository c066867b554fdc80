"""`scsi-block`: one disk as its guest sees it, with `migrate-pr`.

With `migrate-pr` on, three things happen to the guest's commands, and to nothing but PERSISTENT RESERVE:

- the snoop: when a PERSISTENT RESERVE OUT has succeeded, the key and the reservation that the guest now
  has are tracked. What PREEMPT leaves depends on who else is registered, so the logical unit is asked;
  so it is when the guest ignores its existing key, which it may have lost unseen. Where no answer comes,
  the picture is marked stale instead of guessed;
- the mask: REPORT CAPABILITIES reads as if the device could register no other ports than the guest's own;
- the refusal of what the mask denies: SPEC_I_PT, ALL_TG_PT and REGISTER AND MOVE. They would register a
  nexus that does not move along.

A success also tells what the guest's key was, as the logical unit compares the RESERVATION KEY of every
service action but one. Where that contradicts the picture, the picture was stale. It is stale, too, when a
unit attention, a conflict or PRGENERATION tells that somebody else has been at work (`staleness`).

While a PERSISTENT RESERVE OUT of the guest is under way, `state` says that what is tracked is stale, and
which keys the guest may have. Whoever stores it before the command is sent, and again before the guest has
its answer, has at every instant a state that is true or says that it may not be.

With `migrate-pr` off, every command passes as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from enum import Enum, auto

from holdover.guest.gate import BECOMING_READY, REFUSAL, Gate, is_harmless, is_opening_read
from holdover.guest.machine import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.question import ask
from holdover.guest.snoop import AFTER, PREEMPTS, REGISTERS, Tracked, as_pictured, keys_at_stake
from holdover.guest.staleness import (
    RESERVATION_ATTENTIONS,
    Generation,
    attention_of,
    casts_doubt,
    is_unexplained_conflict,
)
from holdover.scsi.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.reservation_in import without_port_capabilities
from holdover.scsi.reservation_out import BASIC_LENGTH, ParameterList
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, decode_sense
from holdover.scsi.status import Status

__all__ = ["Admission", "BlockState", "NotSent", "ScsiBlock", "Tracked"]


class NotSent(Exception):
    """Thrown into `ScsiBlock.process` by its shell: the command was not sent, so it was not carried out."""


class Admission(Enum):
    """What becomes of a command at the gate, if it is not refused there."""

    PASS = auto()
    """It goes on to the logical unit."""
    HOLD = auto()
    """It waits for the gate to change, and is then asked about again."""


@dataclass(frozen=True, slots=True)
class BlockState:
    """All that a `ScsiBlock` knows, for storing and showing.

    Attributes:
        migrate_pr: Whether reservations are tracked and move along.
        gate: Where the device stands with its guest.
        tracked: What the guest has established.
        stale: Whether that may be wrong: then it must not be used before the logical unit was asked.
        candidates: Where it is stale because a PERSISTENT RESERVE OUT has no known end: the keys that the
            guest may have, the likeliest first. That it has none is always possible and does not stand here.
    """

    migrate_pr: bool
    gate: Gate
    tracked: Tracked
    stale: bool
    candidates: tuple[int, ...] = ()


_RESERVE_IN = OperationCode.PERSISTENT_RESERVE_IN
_RESERVE_OUT = OperationCode.PERSISTENT_RESERVE_OUT
_RESERVE = frozenset({_RESERVE_IN, _RESERVE_OUT})

# Unit attentions do not stop these (SPC-4 5.14), so they do not carry them either.
_NEVER_ATTENTION = frozenset({OperationCode.INQUIRY, OperationCode.REPORT_LUNS, OperationCode.REQUEST_SENSE})

_CANDIDATES = 8  # more commands without an end in a row than that, and the oldest key is the unlikeliest

# Ends of a command that prove that it changed nothing. Of any other end but GOOD that is not known.
_UNDONE_STATUS = frozenset(
    {Status.BUSY, Status.RESERVATION_CONFLICT, Status.TASK_SET_FULL, Status.ACA_ACTIVE}
)
_UNDONE_KEYS = frozenset(
    {SenseKey.NOT_READY, SenseKey.ILLEGAL_REQUEST, SenseKey.UNIT_ATTENTION, SenseKey.DATA_PROTECT}
)

_INVALID_FIELD_IN_CDB = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
_INVALID_FIELD_IN_PARAMETER_LIST = check_condition(
    SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
)
_PARAMETER_LIST_LENGTH_ERROR = check_condition(
    SenseKey.ILLEGAL_REQUEST, AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
)


class ScsiBlock:
    """One `scsi-block` device of a guest.

    Sans-I/O: `process` is a generator that yields commands for the logical unit. The shell around it lets
    one PERSISTENT RESERVE OUT in at a time.

    Attributes:
        options: The device's options.
        machine: The guest's machine type.
        gate: Where the device stands with its guest; may be set at any time.
    """

    def __init__(self, options: DeviceOptions, machine: MachineType, gate: Gate) -> None:
        self.options = options
        self.machine = machine
        self.gate = gate
        self._migrate_pr = machine.migrate_pr if options.migrate_pr is None else options.migrate_pr
        self._tracked = Tracked()
        self._stale = False
        self._candidates: tuple[int, ...] = ()
        self._under_way: tuple[int, ...] | None = None
        """The keys at stake in a PERSISTENT RESERVE OUT that was sent; None while there is none."""
        self._sent = 0
        """How many were sent, so that what was read beside one is known to be."""
        self._doubts = 0
        self._generation = Generation()
        # Unit attentions that our own questions met: the guest's, and still to be told to it.
        self._attentions: deque[Response] = deque()

    @property
    def migrate_pr(self) -> bool:
        """Whether reservations are tracked and move along: the explicit value, else the machine's."""
        return self._migrate_pr

    @property
    def tracked(self) -> Tracked:
        """What the guest has established."""
        return self._tracked

    @property
    def stale(self) -> bool:
        """Whether `tracked` may be wrong: then it must not be used before the logical unit was asked."""
        return self._stale or self._under_way is not None

    @property
    def candidates(self) -> tuple[int, ...]:
        """The keys that the guest may have, as in `BlockState`."""
        if self._under_way is None:
            return self._candidates
        return tuple(dict.fromkeys(self._under_way + self._candidates))[:_CANDIDATES]

    @property
    def doubts(self) -> int:
        """How many times `tracked` has become doubtful, or doubtful once more."""
        return self._doubts

    def adopt(self, tracked: Tracked, as_of: int | None = None) -> None:
        """Take over what is known to be true: from the other host, from the logical unit.

        Args:
            tracked: What the guest has established.
            as_of: `doubts` before the logical unit was asked: where more have come up since, the picture
                is stale. None: nothing can have come up.
        """
        self._tracked = tracked
        self._candidates = ()
        self._generation.forget()
        self._stale = as_of is not None and as_of != self._doubts

    def mark_stale(self) -> None:
        """Note that `tracked` may be wrong."""
        self._stale = True
        self._doubts += 1

    def state(self) -> BlockState:
        """All that is known."""
        return BlockState(self._migrate_pr, self.gate, self._tracked, self.stale, self.candidates)

    def restore(self, state: BlockState) -> None:
        """Take over what a stored state says of gate and picture. `migrate_pr` stays as the options say."""
        self.gate = state.gate
        self._tracked = state.tracked
        self._stale = state.stale
        self._candidates = state.candidates

    def notice(self, response: Response) -> bool:
        """Look at a response that the guest's nexus got; only a CHECK CONDITION can say anything.

        Returns:
            Whether it has made `tracked` doubtful.
        """
        attention = attention_of(response) if self._migrate_pr else None
        if attention is None or not casts_doubt(attention, self._tracked):
            return False
        self.mark_stale()
        return True

    def meet(self, response: Response) -> bool:
        """A command of the agent's own has met a unit attention, which is the guest's if the guest is here.

        While it moves, what becomes of its reservation is the handover's doing and not for it to hear. It may
        be a third node's, too: so it counts among `doubts` for whoever says what is true after that.

        Returns:
            Whether it has made `tracked` doubtful.
        """
        if self.gate is Gate.RUNNING:
            return self._keep(response)
        if self._migrate_pr and attention_of(response) in RESERVATION_ATTENTIONS:
            self._doubts += 1
            return True
        return self.gate is Gate.LEAVING and self._keep(response)

    def _keep(self, response: Response) -> bool:
        """Keep a unit attention for the guest; whether it has made `tracked` doubtful."""
        if response not in self._attentions:  # as a logical unit keeps one of a kind (SAM-5 5.14)
            self._attentions.append(response)
        return self.notice(response)

    def forget_attentions(self) -> None:
        """The guest has gone: what it was still to be told is not the next one's."""
        self._attentions.clear()

    def forget_generation(self) -> None:
        """Commands of the agent's own have moved PRGENERATION."""
        self._generation.forget()

    def admit(self, command: Command) -> Admission | Response:
        """What becomes of a command at the gate: it passes, waits, or is answered with a refusal."""
        if self.gate is Gate.RUNNING or is_harmless(command):
            return Admission.PASS
        if self.gate is Gate.DEPARTED:
            return REFUSAL
        return BECOMING_READY if is_opening_read(command) else Admission.HOLD

    def passes_through(self, command: Command) -> bool:
        """Whether `process` would do no more with an admitted command than hand it on."""
        return not self._attentions and (command.opcode not in _RESERVE or not self._migrate_pr)

    def process(self, command: Command) -> Generator[Command, Response, Response]:
        """Carry out an admitted command: yields commands for the logical unit, is sent their responses,
        returns the guest's answer.

        When a response cannot come, throw the reason in: `NotSent` if the command was surely not carried
        out. If the guest's own command was under way, the reason comes out again, and unless it is `NotSent`
        the picture is stale. If the guest's command had already succeeded, the generator returns that.
        """
        if self.passes_through(command):
            response = yield command
            self.notice(response)
            return response
        if self._attentions and command.opcode not in _NEVER_ATTENTION:
            return self._attentions.popleft()
        if command.opcode == _RESERVE_OUT:
            return (yield from self._reserve_out(command))
        if command.opcode == _RESERVE_IN:
            return (yield from self._reserve_in(command))
        response = yield command
        self.notice(response)
        return response

    def _reserve_in(self, command: Command) -> Generator[Command, Response, Response]:
        sent = self._sent
        return self.hear(command, (yield command), sent)

    # -- a PERSISTENT RESERVE IN that another thread carries out ----------------------------------

    @property
    def sent(self) -> int:
        """How many PERSISTENT RESERVE OUT of the guest have been sent. For any thread."""
        return self._sent

    @property
    def burdened(self) -> bool:
        """Whether the guest is to be told something in place of its next command. For any thread."""
        return bool(self._attentions)

    def hear(self, command: Command, response: Response, sent: int) -> Response:
        """Learn from the response to a PERSISTENT RESERVE IN; ``sent`` was `sent` before it was carried out.

        Returns:
            The guest's answer.
        """
        self.notice(response)
        if not self._migrate_pr:
            return response
        action = _action_of(command)
        if action is None:
            return response
        if response.good and self._under_way is None and sent == self._sent:
            moved = self._generation.observe(action, response.data_in)
            # who had nothing has lost nothing
            if moved and self._tracked.key:
                self.mark_stale()
        return _masked(action, response)

    def glance(self, command: Command, response: Response) -> Response | None:
        """The guest's answer, where `hear` would learn nothing from it; else None. For any thread."""
        if not self._migrate_pr:
            return response
        action = _action_of(command)
        if response.status is Status.CHECK_CONDITION or action is None:
            return None
        if response.good and not self._generation.says_nothing(action, response.data_in):
            return None
        return _masked(action, response)

    def _reserve_out(self, command: Command) -> Generator[Command, Response, Response]:
        try:
            cdb = PersistentReserveOut.decode(command.cdb)
        except DecodeError:
            return _INVALID_FIELD_IN_CDB
        refusal = _refusal(cdb, command.data_out)
        if refusal is not None:
            return refusal
        parameters = ParameterList.decode_basic(command.data_out) if cdb.service_action in AFTER else None
        self._under_way = () if parameters is None else keys_at_stake(self._tracked, cdb, parameters)
        self._sent += 1
        doubts = self._doubts
        try:
            response = yield command
            self._judge(response, cdb, parameters)
            if response.good:
                yield from self._learn(cdb, parameters, doubts)
            return response
        except NotSent:
            raise
        except BaseException:
            self._leave_open()
            raise
        finally:
            self._under_way = None

    def _judge(self, response: Response, cdb: PersistentReserveOut, parameters: ParameterList | None) -> None:
        """Doubt the picture where the end of a PERSISTENT RESERVE OUT gives reason to."""
        if response.good:
            return
        if not _is_undone(response):
            self._leave_open()
        elif response.status is Status.RESERVATION_CONFLICT:
            if parameters is not None and is_unexplained_conflict(self._tracked, cdb, parameters):
                self.mark_stale()
        else:
            self.notice(response)

    def _leave_open(self) -> None:
        """A PERSISTENT RESERVE OUT may have been carried out, or not."""
        self._candidates = self.candidates
        self._generation.forget()
        self.mark_stale()

    def _learn(
        self, cdb: PersistentReserveOut, parameters: ParameterList | None, doubts: int
    ) -> Generator[Command, Response, None]:
        """Track what a successful PERSISTENT RESERVE OUT has left; ``doubts`` there were when it was sent."""
        action = cdb.service_action
        if parameters is None or (parameters.key == 0 and action not in REGISTERS):
            # Not a service action that we know, or not a success that the standard has.
            self._leave_open()
            return
        self._generation.explain(cdb, parameters)
        ignores_key = action == OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
        if action == OutServiceAction.REGISTER and parameters.key == 0:
            # Proof that the guest had nothing, as one that comes back after it was preempted.
            self._tracked = Tracked()
            self._stale = doubts != self._doubts
        elif not ignores_key and parameters.key != self._tracked.key:
            self.mark_stale()
        try:
            self._settle(AFTER[action](self._tracked, cdb, parameters))
            if action in PREEMPTS:
                yield from self._ask(kept=not self._stale)
            elif ignores_key and self._tracked.key and (self._stale or self._tracked.type is not None):
                # As a node does that comes back after it was preempted: then its reservation is gone.
                yield from self._ask(kept=False)
        except Exception:
            # The guest's command was carried out, and its answer must say so. What it left is not known:
            # the question failed or made no sense, by whatever error of the path.
            self._leave_open()

    def _ask(self, *, kept: bool) -> Generator[Command, Response, None]:
        """Ask the logical unit what the guest has, with the key that it has for sure."""
        doubts = self._doubts

        def keep(attention: Response) -> None:
            nonlocal doubts
            doubts += self._keep(attention)  # what the question met came before its answer

        picture = yield from ask(keep)
        self._settle(as_pictured(self._tracked, picture, kept=kept))
        self._stale = doubts != self._doubts

    def _settle(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._candidates = ()
        if tracked.key == 0:
            # An I_T nexus that is not registered has nothing that an older picture could have missed.
            self._stale = False


def _action_of(command: Command) -> int | None:
    try:
        return PersistentReserveIn.decode(command.cdb).service_action
    except DecodeError:
        return None


def _masked(action: int, response: Response) -> Response:
    if action != InServiceAction.REPORT_CAPABILITIES:
        return response
    return replace(response, data_in=without_port_capabilities(response.data_in))


def _refusal(cdb: PersistentReserveOut, data: bytes) -> Response | None:
    """The answer to what must not reach the logical unit, or None.

    The CDB comes first, then whether the parameter list is there at all, then its flags: a list with
    TransportIDs is refused for SPEC_I_PT, not for the length that it then must have.
    """
    if cdb.service_action == OutServiceAction.REGISTER_AND_MOVE:
        return _INVALID_FIELD_IN_CDB
    if cdb.service_action not in AFTER:
        return None
    length = cdb.parameter_list_length
    if length < BASIC_LENGTH or len(data) < length:
        return _PARAMETER_LIST_LENGTH_ERROR
    parameters = ParameterList.decode_basic(data)
    if cdb.service_action in REGISTERS and (parameters.spec_i_pt or parameters.all_tg_pt):
        return _INVALID_FIELD_IN_PARAMETER_LIST
    return None if length == BASIC_LENGTH else _PARAMETER_LIST_LENGTH_ERROR


def _is_undone(response: Response) -> bool:
    if response.status is not Status.CHECK_CONDITION:
        return response.status in _UNDONE_STATUS
    try:
        sense = decode_sense(response.sense)
    except DecodeError:
        return False
    return sense.key in _UNDONE_KEYS
