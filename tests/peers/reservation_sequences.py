"""Sequences of reservation commands from three I_T nexuses, as hypothesis draws and shrinks them.

A step names nexuses, keys and types by what they are to the state that it meets: a registered nexus, its own
key, that of the holder, the type that is in force. So most steps of a long sequence do something, also after
others were taken out of it, and shared keys, preempted holders and moved reservations are common. `sender`
and `command` say who that is and what the bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hypothesis import strategies as st

from holdover.lun.reservations import ReservationState
from holdover.scsi.cdbs.cdb import PersistentReserveOut, Read, Write
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import ParameterList, RegisterAndMoveParameterList

NEXUSES = 3
BLOCK = 512
_KEYS = (0xA, 0xB, 0xC)
_WRONG = 0xBAD
_NO_SUCH_ACTIONS = (8, 31)  # REPLACE LOST RESERVATION is one that neither side has


class Key(Enum):
    """A key, by what it is to the state."""

    OWN = "own"
    """That of the nexus that sends the command; 0 where it is not registered."""
    HOLDER = "holder"
    """That of the reservation's holder; of the first registrant where all are, 0 without any."""
    ZERO = "zero"
    WRONG = "wrong"
    """One that nobody registers."""
    FIRST = "first"
    SECOND = "second"
    THIRD = "third"


@dataclass(frozen=True, slots=True)
class Out:
    """PERSISTENT RESERVE OUT.

    Attributes:
        nexus: Who sends it, as in `sender`.
        action: The service action, which need not be one that there is.
        key: RESERVATION KEY.
        new: SERVICE ACTION RESERVATION KEY.
        type: TYPE; None is that of the reservation in force, Write Exclusive without one.
        scope: SCOPE.
        aptpl: APTPL.
        all_ports: ALL_TG_PT.
        ports: The initiator ports of SPEC_I_PT, by the nexuses that are theirs, 0 to 2; None does not set it.
        to: The nexus to which REGISTER AND MOVE moves, 0 to 2.
        unreg: UNREG.
        length: Bytes of the parameter list; None as many as it has.
    """

    nexus: int
    action: int
    key: Key = Key.OWN
    new: Key = Key.ZERO
    type: int | None = None
    scope: int = 0
    aptpl: bool = False
    all_ports: bool = False
    ports: tuple[int, ...] | None = None
    to: int = 0
    unreg: bool = False
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """READ(10) or WRITE(10) of one block."""

    nexus: int
    write: bool


@dataclass(frozen=True, slots=True)
class Look:
    """TEST UNIT READY until a nexus has no unit attention left."""

    nexus: int


Step = Out | Access | Look

_anybody = st.sampled_from(range(NEXUSES))
_somebody = st.sampled_from([*range(NEXUSES), *[*range(NEXUSES, 2 * NEXUSES)] * 4])
_scopes = st.sampled_from([0] * 30 + [1, 15])
_types = st.sampled_from([*([None] * 9), *([int(each) for each in ReservationType] * 2), 0, 2, 15])
_new_types = st.sampled_from([*([int(each) for each in ReservationType] * 6), 0, 4, 15])
_own = st.sampled_from([Key.OWN] * 15 + [Key.ZERO, Key.WRONG, Key.HOLDER])
_registered = st.sampled_from([Key.FIRST] * 3 + [Key.SECOND] * 3 + [Key.THIRD] * 2 + [Key.OWN, Key.HOLDER])
_any = st.sampled_from([*([Key.ZERO] * 2), Key.FIRST, Key.SECOND, Key.THIRD])
_victims = st.sampled_from(
    [*([Key.HOLDER] * 5), *([Key.ZERO] * 2), *([Key.OWN] * 2), Key.WRONG, Key.FIRST, Key.SECOND, Key.THIRD]
)
_lengths = st.sampled_from([*([None] * 60), 0, 8, 23, 25, 32])
_seldom = st.sampled_from([False] * 9 + [True])
_flags = st.sampled_from([*([(False, None)] * 40), (True, None), (False, ()), (False, (1,)), (False, (0, 2))])


def _register(
    action: OutServiceAction, who: st.SearchStrategy[int], new: st.SearchStrategy[Key]
) -> st.SearchStrategy[Out]:
    def make(
        nexus: int,
        key: Key,
        new: Key,
        aptpl: bool,
        flags: tuple[bool, tuple[int, ...] | None],
        length: int | None,
    ) -> Out:
        return Out(nexus, action, key, new, aptpl=aptpl, all_ports=flags[0], ports=flags[1], length=length)

    return st.builds(make, who, _own, new, _seldom, _flags, _lengths)


def _other(
    actions: st.SearchStrategy[int], types: st.SearchStrategy[int | None], new: st.SearchStrategy[Key]
) -> st.SearchStrategy[Out]:
    def make(
        nexus: int, action: int, key: Key, new: Key, type: int | None, scope: int, length: int | None
    ) -> Out:
        return Out(nexus, action, key, new, type, scope, length=length)

    return st.builds(make, _somebody, actions, _own, new, types, _scopes, _lengths)


def _move() -> st.SearchStrategy[Out]:
    def make(nexus: int, key: Key, new: Key, to: int, unreg: bool, aptpl: bool, length: int | None) -> Out:
        action = OutServiceAction.REGISTER_AND_MOVE
        return Out(nexus, action, key, new, to=to, unreg=unreg, aptpl=aptpl, length=length)

    new = st.one_of(_registered, _any)
    return st.builds(make, _somebody, _own, new, _anybody, st.booleans(), _seldom, _lengths)


_REGISTER, _IGNORE = OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
_gone = st.just(Key.ZERO)
_reserve = _other(st.just(OutServiceAction.RESERVE), _new_types, _any)
_release = _other(st.just(OutServiceAction.RELEASE), _types, _any)
_clear = _other(st.just(OutServiceAction.CLEAR), _types, _any)
_preempt = _other(st.just(OutServiceAction.PREEMPT), _types, _victims)
_abort = _other(st.just(OutServiceAction.PREEMPT_AND_ABORT), _types, _victims)
_unknown = _other(st.sampled_from(_NO_SUCH_ACTIONS), _types, _any)
_access = st.builds(Access, _anybody, st.booleans())
_look = st.builds(Look, _anybody)

# How often each is drawn. The first is what shrinking makes of a step: the end of the sequence.
_WEIGHTS: dict[st.SearchStrategy[Step | None], int] = {
    st.none(): 1,
    _register(_REGISTER, _anybody, _registered): 6,
    _register(_REGISTER, _somebody, _registered): 3,
    _register(_IGNORE, _anybody, _registered): 6,
    _register(_REGISTER, _somebody, _gone): 1,
    _register(_IGNORE, _somebody, _gone): 1,
    _reserve: 9,
    _release: 2,
    _clear: 1,
    _preempt: 7,
    _abort: 3,
    _move(): 4,
    _unknown: 1,
    _access: 3,
    _look: 4,
}
_weighted = st.sampled_from([each for each, weight in _WEIGHTS.items() for _ in range(weight)])


@st.composite
def _any_step(draw: st.DrawFn) -> Step | None:
    # one_of() takes no weights: it leaves out what is there twice
    return draw(draw(_weighted))


steps: st.SearchStrategy[Step | None] = _any_step()
"""One step; None ends the sequence."""

beginnings: st.SearchStrategy[list[Out]] = st.lists(
    st.builds(Out, _anybody, st.just(_IGNORE), new=st.sampled_from([Key.FIRST, Key.SECOND, Key.THIRD])),
    max_size=4,
)
"""Registrations for a sequence to begin with."""


def sender(step: Step, state: ReservationState, nexuses: list[ITNexus]) -> int:
    """Which nexus sends a step: 0 to 2 are that one, 3 to 5 a registered one where there is any."""
    number = step.nexus % NEXUSES
    # ALL_TG_PT and SPEC_I_PT register nexuses that nobody here can send through
    registered = [nexuses.index(each.nexus) for each in state.registrations if each.nexus in nexuses]
    return number if step.nexus < NEXUSES or not registered else registered[number % len(registered)]


def command(step: Out | Access, state: ReservationState, nexuses: list[ITNexus]) -> Command:
    """The bytes of a step in a state, by whom `sender` says."""
    if isinstance(step, Access):
        if step.write:
            return Command(Write(0, 1, 10).encode(), bytes(BLOCK))
        return Command(Read(0, 1, 10).encode(), data_in_length=BLOCK)
    own = nexuses[sender(step, state, nexuses)]
    key, new = (_value(each, state, own) for each in (step.key, step.new))
    data = _parameter_list(step, key, new, nexuses)
    if step.length is not None:
        data = data[: step.length].ljust(step.length, b"\0")
    type = step.type
    if type is None:
        type = ReservationType.WRITE_EXCLUSIVE if state.reservation is None else state.reservation.type
    return Command(PersistentReserveOut(step.action, len(data), type, step.scope).encode(), data)


def _parameter_list(step: Out, key: int, new: int, nexuses: list[ITNexus]) -> bytes:
    if step.action == OutServiceAction.REGISTER_AND_MOVE:
        to = nexuses[step.to]
        return RegisterAndMoveParameterList(
            key, new, to.target_port, to.initiator, step.unreg, step.aptpl
        ).encode()
    ports = tuple(nexuses[each].initiator for each in step.ports or ())
    return ParameterList(key, new, step.aptpl, step.all_ports, step.ports is not None, ports).encode()


def _value(key: Key, state: ReservationState, nexus: ITNexus) -> int:
    if key is Key.OWN:
        return state.key_of(nexus)
    if key is Key.HOLDER:
        return next((each.key for each in state.registrations if state.holds(each.nexus)), 0)
    return {Key.ZERO: 0, Key.WRONG: _WRONG, Key.FIRST: 0xA, Key.SECOND: 0xB, Key.THIRD: 0xC}[key]
