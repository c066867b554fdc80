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
service action but one. Where that contradicts the picture, the picture was stale.

With `migrate-pr` off, every command passes as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from enum import Enum, auto

from holdover.guest.gate import BECOMING_READY, REFUSAL, Gate, is_harmless, is_opening_read
from holdover.guest.machine import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.question import Picture, QuestionError, ask
from holdover.scsi.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.reservation_in import without_port_capabilities
from holdover.scsi.reservation_out import BASIC_LENGTH, ParameterList
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, decode_sense
from holdover.scsi.status import Status

__all__ = ["Admission", "BlockState", "ScsiBlock", "Tracked"]


class Admission(Enum):
    """What becomes of a command at the gate, if it is not refused there."""

    PASS = auto()
    """It goes on to the logical unit."""
    HOLD = auto()
    """It waits for the gate to change, and is then asked about again."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """What the guest has established on the logical unit.

    Attributes:
        key: Its reservation key; 0 when it is not registered.
        aptpl: Whether it wants registrations and reservation kept through a power loss.
        type: The type of the reservation that it has taken and still holds, or None. Under an all
            registrants reservation of somebody else it is a holder too, and None is still right: there
            is nothing to carry but the registration.
        scope: The scope of that reservation, 4 bits; 0 is the logical unit.
    """

    key: int = 0
    aptpl: bool = False
    type: ReservationType | None = None
    scope: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.key < 1 << 64:
            raise ValueError(f"reservation key {self.key:#x} has more than 64 bits")
        if self.type is not None and self.key == 0:
            raise ValueError("a reservation without a registration")


@dataclass(frozen=True, slots=True)
class BlockState:
    """All that a `ScsiBlock` knows, for storing and showing.

    Attributes:
        migrate_pr: Whether reservations are tracked and move along.
        gate: Where the device stands with its guest.
        tracked: What the guest has established.
        stale: Whether that may be wrong: then it must not be used before the logical unit was asked.
    """

    migrate_pr: bool
    gate: Gate
    tracked: Tracked
    stale: bool


_RESERVE_IN = OperationCode.PERSISTENT_RESERVE_IN
_RESERVE_OUT = OperationCode.PERSISTENT_RESERVE_OUT
_RESERVE = frozenset({_RESERVE_IN, _RESERVE_OUT})

# Unit attentions do not stop these (SPC-4 5.14), so they do not carry them either.
_NEVER_ATTENTION = frozenset({OperationCode.INQUIRY, OperationCode.REPORT_LUNS, OperationCode.REQUEST_SENSE})

_REGISTERS = frozenset({OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY})
_PREEMPTS = frozenset({OutServiceAction.PREEMPT, OutServiceAction.PREEMPT_AND_ABORT})

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
        return self._stale

    def adopt(self, tracked: Tracked) -> None:
        """Take over what is known to be true: from the other host, from the logical unit."""
        self._tracked = tracked
        self._stale = False

    def mark_stale(self) -> None:
        """Note that `tracked` may be wrong, as when the answer to a command never came."""
        self._stale = True

    def state(self) -> BlockState:
        """All that is known."""
        return BlockState(self._migrate_pr, self.gate, self._tracked, self._stale)

    def restore(self, state: BlockState) -> None:
        """Take over gate, tracked and stale from a stored state. `migrate_pr` stays as the options say."""
        self.gate = state.gate
        self._tracked = state.tracked
        self._stale = state.stale

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

        When a response cannot come, throw the reason in. If the guest's own command was under way, it
        comes out again, and the shell calls `mark_stale` if the command may have been carried out. If the
        guest's command had already succeeded, the generator returns that.
        """
        if self.passes_through(command):
            return (yield command)
        if self._attentions and command.opcode not in _NEVER_ATTENTION:
            return self._attentions.popleft()
        if command.opcode == _RESERVE_OUT:
            return (yield from self._reserve_out(command))
        response = yield command
        return _masked(command, response) if command.opcode == _RESERVE_IN else response

    def _reserve_out(self, command: Command) -> Generator[Command, Response, Response]:
        try:
            cdb = PersistentReserveOut.decode(command.cdb)
        except DecodeError:
            return _INVALID_FIELD_IN_CDB
        refusal = _refusal(cdb, command.data_out)
        if refusal is not None:
            return refusal
        try:
            response = yield command
        except GeneratorExit:
            self._stale = True
            raise
        if response.good:
            yield from self._learn(cdb, command.data_out)
        elif not _is_undone(response):
            self._stale = True
        return response

    def _learn(self, cdb: PersistentReserveOut, data: bytes) -> Generator[Command, Response, None]:
        """Track what a successful PERSISTENT RESERVE OUT has left."""
        action = cdb.service_action
        parameters = ParameterList.decode_basic(data) if action in _AFTER else None
        if parameters is None or (parameters.key == 0 and action not in _REGISTERS):
            # Not a service action that we know, or not a success that the standard has.
            self._stale = True
            return
        ignores_key = action == OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
        if not ignores_key and parameters.key != self._tracked.key:
            self._stale = True
        try:
            self._settle(_AFTER[action](self._tracked, cdb, parameters))
            if action in _PREEMPTS:
                picture = yield from ask(self._attentions.append)
                self._settle(_as_pictured(self._tracked, picture, kept=True))
            elif ignores_key and self._tracked.type is not None:
                # As a node does that comes back after it was preempted: then its reservation is gone.
                picture = yield from ask(self._attentions.append)
                self._settle(_as_pictured(self._tracked, picture, kept=False))
        except GeneratorExit:
            self._stale = True
            raise
        except Exception:
            # The guest's command was carried out, and its answer must say so. What it left is not known:
            # the question failed or made no sense, by whatever error of the path.
            self._stale = True

    def _settle(self, tracked: Tracked) -> None:
        self._tracked = tracked
        if tracked.key == 0:
            # An I_T nexus that is not registered has nothing that an older picture could have missed.
            self._stale = False


def _refusal(cdb: PersistentReserveOut, data: bytes) -> Response | None:
    """The answer to what must not reach the logical unit, or None.

    The CDB comes first, then whether the parameter list is there at all, then its flags: a list with
    TransportIDs is refused for SPEC_I_PT, not for the length that it then must have.
    """
    if cdb.service_action == OutServiceAction.REGISTER_AND_MOVE:
        return _INVALID_FIELD_IN_CDB
    if cdb.service_action not in _AFTER:
        return None
    length = cdb.parameter_list_length
    if length < BASIC_LENGTH or len(data) < length:
        return _PARAMETER_LIST_LENGTH_ERROR
    parameters = ParameterList.decode_basic(data)
    if cdb.service_action in _REGISTERS and (parameters.spec_i_pt or parameters.all_tg_pt):
        return _INVALID_FIELD_IN_PARAMETER_LIST
    return None if length == BASIC_LENGTH else _PARAMETER_LIST_LENGTH_ERROR


def _masked(command: Command, response: Response) -> Response:
    try:
        action = PersistentReserveIn.decode(command.cdb).service_action
    except DecodeError:
        return response
    if action != InServiceAction.REPORT_CAPABILITIES:
        return response
    return replace(response, data_in=without_port_capabilities(response.data_in))


def _is_undone(response: Response) -> bool:
    if response.status is not Status.CHECK_CONDITION:
        return response.status in _UNDONE_STATUS
    try:
        sense = decode_sense(response.sense)
    except DecodeError:
        return False
    return sense.key in _UNDONE_KEYS


def _after_register(before: Tracked, _: PersistentReserveOut, parameters: ParameterList) -> Tracked:
    if parameters.service_action_key == 0:
        return Tracked()
    return replace(before, key=parameters.service_action_key, aptpl=parameters.aptpl)


def _after_reserve(before: Tracked, cdb: PersistentReserveOut, parameters: ParameterList) -> Tracked:
    return replace(before, key=parameters.key, type=ReservationType(cdb.type), scope=cdb.scope)


def _after_release(before: Tracked, _: PersistentReserveOut, parameters: ParameterList) -> Tracked:
    return replace(before, key=parameters.key, type=None, scope=0)


def _after_clear(_: Tracked, __: PersistentReserveOut, ___: ParameterList) -> Tracked:
    return Tracked()


def _after_preempt(before: Tracked, _: PersistentReserveOut, parameters: ParameterList) -> Tracked:
    return replace(before, key=parameters.key)


def _as_pictured(before: Tracked, picture: Picture, *, kept: bool) -> Tracked:
    """What the guest has by what the logical unit says, registered with the key of `before` or not at all.

    Args:
        before: What was tracked, with the key that the guest has proved or set.
        picture: What the logical unit says.
        kept: Whether the guest was registered all along, so that what it held under an unchanged
            reservation it still holds.

    Raises:
        QuestionError: Another nexus has the same key, and either may be the reservation holder.
    """
    if before.key not in picture.keys:
        return Tracked()
    held = picture.reservation
    if held is None or (not held.type.all_registrants and held.key != before.key):
        return replace(before, type=None, scope=0)
    # After a PREEMPT that named our own key we are alone with it, and one that named another key leaves a
    # reservation of our key as it was. So only what we did not hold before is open.
    known = kept and (before.type, before.scope) == (held.type, held.scope)
    if not known and not held.type.all_registrants and picture.keys.count(before.key) > 1:
        raise QuestionError(f"several registrants have key {before.key:#x}, one of them is the holder")
    return replace(before, type=held.type, scope=held.scope)


_After = Callable[[Tracked, PersistentReserveOut, ParameterList], Tracked]

# What each service action leaves (SPC-4 5.13.7 to 5.13.11), as far as it tells itself.
_AFTER: dict[int, _After] = {
    OutServiceAction.REGISTER: _after_register,
    OutServiceAction.RESERVE: _after_reserve,
    OutServiceAction.RELEASE: _after_release,
    OutServiceAction.CLEAR: _after_clear,
    OutServiceAction.PREEMPT: _after_preempt,
    OutServiceAction.PREEMPT_AND_ABORT: _after_preempt,
    OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY: _after_register,
}
