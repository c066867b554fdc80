"""`scsi-block`: one disk as its guest sees it, with `migrate-pr`.

With `migrate-pr` on, this module does three things to the guest's PERSISTENT RESERVE commands, and nothing to
other commands:

- the snoop: after a PERSISTENT RESERVE OUT has succeeded, it tracks the key and the reservation that the
  guest now has. What a PREEMPT leaves depends on who else is registered, so the snoop asks the logical unit.
  It also asks when the guest ignores its existing key, because the guest may have lost that key unnoticed. If
  no answer comes, the picture is marked stale; nothing is guessed;
- the mask: REPORT CAPABILITIES reads as if the device could register no ports but the guest's own;
- the refusal of what the mask denies: SPEC_I_PT, ALL_TG_PT and REGISTER AND MOVE. They would register a
  nexus that does not move along.

A success also proves which key the guest had, because the logical unit compares the RESERVATION KEY of every
service action but one. If that key contradicts the picture, the picture was stale. The picture also becomes
stale when a unit attention, a conflict or PRGENERATION shows that somebody else has changed something
(`staleness`).

While a PERSISTENT RESERVE OUT of the guest is under way, `state` says that the tracked values are stale, and
which keys the guest may have. The caller stores this state before it sends the command, and again before the
guest gets the response. So at every moment the stored state is true, or says that it may be wrong.

With `migrate-pr` off, every command passes unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from msgspec import structs

from holdover.guest.added import FILTERED, Added, without_added
from holdover.guest.gate import BECOMING_READY, REFUSAL, Gate, GateDecision, is_harmless, is_opening_read
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.reserve_out import INVALID_FIELD_IN_CDB, refusal_of
from holdover.guest.snoop import AFTER, PREEMPTS, REGISTERS, as_pictured, keys_at_stake
from holdover.guest.staleness import (
    RESERVATION_ATTENTIONS,
    Generation,
    attention_of,
    casts_doubt,
    is_unexplained_conflict,
)
from holdover.reservations.driver import observing
from holdover.reservations.questions import read_picture
from holdover.reservations.tracked import Tracked
from holdover.scsi.allocation import ask_whole
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.reservation_in import without_port_capabilities
from holdover.scsi.reservation.reservation_out import ParameterList, in_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, is_undone, is_unit_attention
from holdover.scsi.status import Status


class NotSent(Exception):
    """The command was not sent, so it was not carried out. The caller throws it into `ScsiBlock.process`."""


@dataclass(frozen=True, slots=True)
class BlockState:
    """All that a `ScsiBlock` knows, as it is stored and shown.

    Attributes:
        migrate_pr: Whether reservations are tracked and move along.
        gate: The state of the gate.
        tracked: What the guest has established.
        stale: Whether ``tracked`` may be wrong. If so, ask the logical unit before using ``tracked``.
        candidates: If the state is stale because a PERSISTENT RESERVE OUT has no known result: the keys that
            the guest may have, the likeliest first. That the guest has no key is always possible and is not
            listed.
    """

    migrate_pr: bool
    gate: Gate
    tracked: Tracked
    stale: bool
    candidates: tuple[int, ...] = ()


_RESERVE_IN = OperationCode.PERSISTENT_RESERVE_IN
_RESERVE_OUT = OperationCode.PERSISTENT_RESERVE_OUT
_RESERVE = frozenset({_RESERVE_IN, _RESERVE_OUT})

# These commands do not end in a unit attention (SPC-4 5.14), so they do not deliver one to the guest either.
_NEVER_ATTENTION = frozenset({OperationCode.INQUIRY, OperationCode.REPORT_LUNS, OperationCode.REQUEST_SENSE})

_CANDIDATES = 8  # after more commands without a known result than this, the oldest key is the unlikeliest


class ScsiBlock:
    """One `scsi-block` device of a guest.

    The class does no I/O: `process` is a generator that yields commands for the logical unit. The caller
    lets one PERSISTENT RESERVE OUT run at a time.

    Attributes:
        options: The device's options.
        machine_type: The guest's machine type.
        gate: The state of the gate; it may be set at any time.
        added: What a handover of the guest, which still runs here, has registered on the other host; None if
            nothing. The guest does not see it.
        goes_back: Whether the guest has run here and goes back to the host from which it came.
    """

    def __init__(self, options: DeviceOptions, machine_type: MachineType, gate: Gate) -> None:
        self.options = options
        self.machine_type = machine_type
        self.gate = gate
        self.added: Added | None = None
        self.goes_back = False
        self._migrate_pr = machine_type.migrate_pr if options.migrate_pr is None else options.migrate_pr
        self._tracked = Tracked()
        self._stale = False
        self._candidates: tuple[int, ...] = ()
        self._under_way: tuple[int, ...] | None = None
        """The keys at stake in a PERSISTENT RESERVE OUT that was sent; None if none is under way."""
        self._sent = 0
        """How many were sent. A read that ran at the same time as one notices it by this count."""
        self._own_under_way = False
        self._staleness_epoch = 0
        self._generation = Generation()
        # Unit attentions that our own questions met. They belong to the guest, which has not got them yet.
        self._attentions: deque[Response] = deque()

    @property
    def migrate_pr(self) -> bool:
        """Whether reservations are tracked and move along: the option's value, else the machine type's."""
        return self._migrate_pr

    @property
    def tracked(self) -> Tracked:
        """What the guest has established."""
        return self._tracked

    @property
    def stale(self) -> bool:
        """Whether `tracked` may be wrong. If so, ask the logical unit before using `tracked`."""
        return self._stale or self._under_way is not None

    @property
    def is_registered(self) -> bool:
        """Whether the guest is certainly registered."""
        return self.tracked.key != 0 and not self.stale

    @property
    def candidates(self) -> tuple[int, ...]:
        """The keys that the guest may have, as in `BlockState.candidates`."""
        if self._under_way is None:
            return self._candidates
        return tuple(dict.fromkeys(self._under_way + self._candidates))[:_CANDIDATES]

    @property
    def staleness_epoch(self) -> int:
        """How many times there was a new reason to doubt `tracked`."""
        return self._staleness_epoch

    def adopt(self, tracked: Tracked, as_of: int | None = None, generation: int | None = None) -> None:
        """Take over what the other host or the logical unit says that the guest has.

        Args:
            tracked: What the guest has established.
            as_of: `staleness_epoch` before the logical unit was asked. If the epoch has moved since then, the
                picture is stale. None: the epoch cannot have moved.
            generation: PRGENERATION at the answer of the logical unit, or an earlier value. None: it is not
                known, so the next value that the guest reads makes the picture stale.
        """
        self._tracked = tracked
        self._generation.know(generation)
        self._stale = as_of is not None and as_of != self._staleness_epoch
        if not self._stale:
            self._candidates = ()

    def mark_stale(self) -> None:
        """Note that `tracked` may be wrong."""
        self._stale = True
        self._staleness_epoch += 1

    def state(self) -> BlockState:
        """All that this device knows, as it is stored and shown."""
        return BlockState(self._migrate_pr, self.gate, self._tracked, self.stale, self.candidates)

    def restore(self, state: BlockState) -> None:
        """Take over gate and picture of a stored state. `migrate_pr` stays as the options set it."""
        self.gate = state.gate
        self._tracked = state.tracked
        self._stale = state.stale
        self._candidates = state.candidates

    def observe_attention(self, response: Response) -> bool:
        """Learn from a response that the guest's nexus got. Only a CHECK CONDITION can tell anything.

        Returns:
            Whether the response made `tracked` doubtful.
        """
        attention = attention_of(response) if self._migrate_pr else None
        if attention is None or not casts_doubt(attention, self._tracked):
            return False
        self.mark_stale()
        return True

    def observe_own_response(self, response: Response) -> bool:
        """Learn from a unit attention that a command of the agent's own met.

        The unit attention is the guest's if the guest is here. While the guest leaves, either the handover or
        a third node may have caused a unit attention about the guest's reservation. So this method keeps such
        an attention for a caller that knows more (`pending_attentions`, `drop_attentions`). It also moves
        `staleness_epoch`, for a caller that states afterwards what is true. On the destination, this method
        does not keep what the nexus is told before the guest arrives: the source says which unit attentions
        the guest has not got yet.

        Returns:
            Whether the response made `tracked` doubtful.
        """
        is_of_reservation = attention_of(response) in RESERVATION_ATTENTIONS
        leaves = self.gate is Gate.LEAVING or self.goes_back
        if self.gate is Gate.RUNNING or (leaves and not is_of_reservation):
            return self._keep(response)
        if leaves:
            self._remember(response)
        if self._migrate_pr and is_of_reservation:
            self._staleness_epoch += 1
            return True
        return False

    def _keep(self, response: Response) -> bool:
        """Keep a unit attention for the guest. Returns whether it made `tracked` doubtful."""
        self._remember(response)
        return self.observe_attention(response)

    def _remember(self, response: Response) -> None:
        if response not in self._attentions:  # a logical unit also keeps one of each kind (SAM-5 5.14)
            self._attentions.append(response)

    @property
    def pending_attentions(self) -> tuple[int, ...]:
        """The unit attentions about the guest's reservation that the guest has not got yet."""
        found = (attention_of(each) for each in self._attentions)
        return tuple(each for each in found if each in RESERVATION_ATTENTIONS and each is not None)

    def pass_on(self, attentions: Iterable[int]) -> None:
        """Tell the guest unit attentions that it has not heard on the other host, each once."""
        for attention in attentions:
            if attention not in self.pending_attentions:
                self._attentions.append(check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense(attention)))

    def drop_attentions(self, attentions: Iterable[int]) -> None:
        """Drop unit attentions: the handover caused them, or the guest has heard them already."""
        dropped = frozenset(attentions)
        self._attentions = deque(each for each in self._attentions if attention_of(each) not in dropped)

    def owe(self, attention: Response) -> None:
        """Tell the guest a unit attention that the agent itself raises. It says nothing of registrations."""
        self._remember(attention)

    def forget_attentions(self) -> None:
        """Drop what the guest has not heard: the guest has gone, and the next guest must not get it."""
        self.goes_back = False
        self._attentions.clear()

    def forget_generation(self) -> None:
        """Note that PRGENERATION has moved by an unknown amount."""
        self._generation.know(None)

    def begin_own(self) -> None:
        """Note that the agent is about to send a PERSISTENT RESERVE OUT of its own, which moves PRGENERATION.
        What the guest reads until `end_own` is no sign of other nodes."""
        self._own_under_way = True
        self._sent += 1
        self._generation.know(None)

    def end_own(self) -> None:
        """Note that the agent's own commands have ended, and that their findings were adopted."""
        if self._own_under_way:
            self._own_under_way = False
            self._sent += 1

    def admit(self, command: Command) -> GateDecision | Response:
        """What happens to a command at the gate: it passes, it waits, or it gets this refusal."""
        if self.gate is Gate.RUNNING or is_harmless(command):
            return GateDecision.PASS
        if self.gate is Gate.DEPARTED:
            return REFUSAL
        return BECOMING_READY if is_opening_read(command) else GateDecision.HOLD

    def passes_through(self, opcode: int) -> bool:
        """Whether `process` would only forward an admitted command, and do nothing else."""
        return not self._attentions and (opcode not in _RESERVE or not self._migrate_pr)

    def process(self, command: Command) -> Generator[Command, Response, Response]:
        """Carry out an admitted command and return the guest's response.

        The generator yields commands for the logical unit and is sent their responses. If a response cannot
        come, throw the reason into the generator: `NotSent` if the command was certainly not carried out. If
        the guest's own command was under way, the generator raises that reason again. Unless the reason is
        `NotSent`, the picture is then stale. If the guest's command had already succeeded, the generator
        returns its response.
        """
        if self.passes_through(command.opcode):
            response = yield command
            self.observe_attention(response)
            return response
        if self._attentions and command.opcode not in _NEVER_ATTENTION:
            return self._attentions.popleft()
        if command.opcode == _RESERVE_OUT:
            return (yield from self._reserve_out(command))
        if command.opcode == _RESERVE_IN:
            return (yield from self._reserve_in(command))
        response = yield command
        self.observe_attention(response)
        return response

    def _reserve_in(self, command: Command) -> Generator[Command, Response, Response]:
        sent, added = self._sent, self.added
        action = _action_of(command)
        if added is None or action not in FILTERED:
            return self.observe_reservation_in(command, (yield command), sent)
        # the guest's allocation length may cut the data in the middle of what must be left out
        whole = yield from ask_whole(in_command(InServiceAction(action)), _once)
        if not whole.good and not is_unit_attention(whole):
            return self.observe_reservation_in(command, (yield command), sent)
        observed = self.observe_reservation_in(command, whole, sent)
        if not whole.good:
            return observed
        data = without_added(action, observed.data_in, added, self._tracked.key)
        return structs.replace(
            observed, data_in=data[: PersistentReserveIn.decode(command.cdb).allocation_length]
        )

    # -- a PERSISTENT RESERVE IN that another thread carries out ----------------------------------

    @property
    def sent(self) -> int:
        """A count that moves when a PERSISTENT RESERVE OUT is sent or ends. Any thread may read it."""
        return self._sent

    @property
    def has_pending_attention(self) -> bool:
        """Whether the guest's next command may get another response than the logical unit's.

        So it is while a unit attention waits for it, or a handover has added registrations. For any thread.
        """
        return bool(self._attentions) or self.added is not None

    def observe_reservation_in(self, command: Command, response: Response, sent: int) -> Response:
        """Learn from the response to a PERSISTENT RESERVE IN.

        ``sent`` is the value that `sent` had before the command was carried out.

        Returns:
            The guest's response.
        """
        self.observe_attention(response)
        if not self._migrate_pr:
            return response
        action = _action_of(command)
        if action is None:
            return response
        if response.status is Status.RESERVATION_CONFLICT and self._tracked.key:
            # It reads while RESERVE of SPC-2 shuts it out, and RESERVE needs a LUN without registrations.
            self.mark_stale()
        alone = self._under_way is None and not self._own_under_way
        if response.good and alone and sent == self._sent:
            known = self._generation.is_known
            moved = self._generation.observe(action, response.data_in)
            # a guest without a key has lost nothing; and a stale picture needs no second reason for doubt
            if moved and self._tracked.key and (known or not self._stale):
                self.mark_stale()
        return _masked(action, response)

    def observe_unchanged(self, command: Command, response: Response) -> Response | None:
        """The guest's response if `observe_reservation_in` would learn nothing from it, else None.

        Any thread may call this.
        """
        if not self._migrate_pr:
            return response
        action = _action_of(command)
        if action is None or not response.good or not self._generation.says_nothing(action, response.data_in):
            return None
        return _masked(action, response)

    def _reserve_out(self, command: Command) -> Generator[Command, Response, Response]:
        try:
            cdb = PersistentReserveOut.decode(command.cdb)
        except DecodeError:
            return INVALID_FIELD_IN_CDB
        refusal = refusal_of(cdb, command.data_out)
        if refusal is not None:
            return refusal
        parameters = ParameterList.decode_basic(command.data_out) if cdb.service_action in AFTER else None
        self._under_way = () if parameters is None else keys_at_stake(self._tracked, cdb, parameters)
        self._sent += 1
        epoch = self._staleness_epoch
        try:
            response = yield command
            self._judge(response, cdb, parameters)
            if response.good:
                yield from self._learn(cdb, parameters, epoch)
            return response
        except NotSent:
            raise
        except BaseException:
            self._leave_open()
            raise
        finally:
            self._under_way = None

    def _judge(self, response: Response, cdb: PersistentReserveOut, parameters: ParameterList | None) -> None:
        """Doubt the picture if the response to a PERSISTENT RESERVE OUT gives a reason to."""
        if response.good:
            return
        if not is_undone(response):
            self._leave_open()
        elif response.status is Status.RESERVATION_CONFLICT:
            if parameters is not None and is_unexplained_conflict(self._tracked, cdb, parameters):
                self.mark_stale()
        else:
            self.observe_attention(response)

    def _leave_open(self) -> None:
        """Note that a PERSISTENT RESERVE OUT may or may not have been carried out."""
        self._candidates = self.candidates
        self._generation.know(None)
        self.mark_stale()

    def _learn(
        self, cdb: PersistentReserveOut, parameters: ParameterList | None, epoch: int
    ) -> Generator[Command, Response, None]:
        """Track what the guest has after a successful PERSISTENT RESERVE OUT.

        ``epoch`` is the staleness epoch at which the command was sent.
        """
        action = cdb.service_action
        if parameters is None or (parameters.key == 0 and action not in REGISTERS):
            # Not a service action that we know, or a success that the standard does not allow.
            self._leave_open()
            return
        self._generation.explain(cdb, parameters)
        ignores_key = action == OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
        if action == OutServiceAction.REGISTER and parameters.key == 0:
            # The guest has proved that it had no registration, as a node does that was preempted and returns.
            self._tracked = Tracked()
            self._stale = epoch != self._staleness_epoch
        elif not ignores_key and parameters.key != self._tracked.key:
            self.mark_stale()
        try:
            self._settle(AFTER[action](self._tracked, cdb, parameters))
            if action in PREEMPTS:
                yield from self._ask(kept=not self._stale)
            elif ignores_key and self._tracked.key and (self._stale or self._tracked.type is not None):
                # A node that was preempted and returns does this. Then its reservation is gone.
                yield from self._ask(kept=False)
        except Exception:
            # The guest's command was carried out, and the guest must get that response. What the command left
            # is not known: the question failed, by an error of the path or an answer that made no sense.
            self._leave_open()

    def _ask(self, *, kept: bool) -> Generator[Command, Response, None]:
        """Ask the logical unit what the guest has. The tracked key is certain at this point."""
        epoch = self._staleness_epoch

        def keep(response: Response) -> None:
            nonlocal epoch
            if is_unit_attention(response):
                epoch += self._keep(response)  # it came before the answer, so the answer covers it

        picture = yield from observing(read_picture(), keep)
        self._settle(as_pictured(self._tracked, picture, kept=kept))
        self._generation.know(picture.generation)
        self._stale = epoch != self._staleness_epoch

    def _settle(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._candidates = ()
        if tracked.key == 0:
            # A nexus that is not registered has nothing, so no older picture can have missed anything.
            self._stale = False


def _once(command: Command) -> Generator[Command, Response, Response]:
    return (yield command)


def _action_of(command: Command) -> int | None:
    try:
        return PersistentReserveIn.decode(command.cdb).service_action
    except DecodeError:
        return None


def _masked(action: int, response: Response) -> Response:
    if action != InServiceAction.REPORT_CAPABILITIES:
        return response
    return structs.replace(response, data_in=without_port_capabilities(response.data_in))
