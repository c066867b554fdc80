"""Where the kernel's target answers a reservation command otherwise than the logical unit, by which clause.

Clauses are those of SPC-4 (revision 36f) unless SAM-5 is named. A row says which parts of what is seen after
a command it explains; a part that no row explains is a difference that has no place here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdover.lun.reservations import ReservationState
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense, is_unit_attention
from holdover.scsi.status import Status
from tests.peers.reservation_sequences import Access, Key, Look, Out, Step

ATTENTION_FIRST = "attention before conflict"
"""The kernel reports a unit attention where the command, of whatever kind, would end in RESERVATION CONFLICT;
SAM-5 5.3.3 ranks that before every CHECK CONDITION."""

FORGOTTEN = "attentions forgotten"
"""The kernel reports one of several unit attentions and drops the rest; SAM-5 5.14 has each reported."""

Part = str
"""What can differ: "answer", "state" (of keys and reservation), "generation" and "activated" (PTPL_A)."""

MOVED_BACK = "REGISTER AND MOVE: there and back"
"""The kernel gives a reservation that comes back to who moved it away another scope, which no read shows."""

_TYPES = frozenset(int(each) for each in ReservationType)
_ANSWER: frozenset[Part] = frozenset({"answer"})
_ALL: frozenset[Part] = frozenset({"answer", "state", "generation", "activated"})
_REGISTERING = (OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY)
_PREEMPTING = (OutServiceAction.PREEMPT, OutServiceAction.PREEMPT_AND_ABORT)
_IN_CDB, _IN_LIST = AdditionalSense.INVALID_FIELD_IN_CDB, AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
_LENGTH = AdditionalSense.PARAMETER_LIST_LENGTH_ERROR


@dataclass(frozen=True, slots=True)
class Met:
    """A command, the target's number of ports, the state that it met, and the two answers."""

    step: Out | Access
    nexus: int
    key: int
    new: int
    registered: bool
    ports: int
    before: ReservationState
    ours: Response
    kernels: Response

    @property
    def action(self) -> int | None:
        """The service action of a PERSISTENT RESERVE OUT."""
        return self.step.action if isinstance(self.step, Out) else None


@dataclass(frozen=True, slots=True)
class Difference:
    """One kind of difference.

    Attributes:
        name: What the kernel does.
        clause: What decides it.
        parts: Which parts it explains.
        applies: Whether it can have happened here.
    """

    name: str
    clause: str
    parts: frozenset[Part]
    applies: Callable[[Met, Out], bool]


def explain(met: Met, parts: set[Part]) -> list[str] | None:
    """The names of the differences that explain these parts; None where some part is left."""
    names, left = [], set(parts)
    if "answer" in left and _conflict(met.ours) and is_unit_attention(met.kernels):
        names.append(ATTENTION_FIRST)
        left.discard("answer")
    if isinstance(met.step, Out):
        for each in DIFFERENCES:
            if left & each.parts and each.applies(met, met.step):
                names.append(each.name)
                left -= each.parts
    return None if left else names


def _ends(response: Response, what: AdditionalSense) -> bool:
    if response.status is not Status.CHECK_CONDITION:
        return False
    sense = decode_sense(response.sense)
    return (sense.key, sense.additional) == (SenseKey.ILLEGAL_REQUEST, what)


def _not_ready(response: Response) -> bool:
    if response.status is not Status.CHECK_CONDITION:
        return False
    sense = decode_sense(response.sense)
    return (sense.key, sense.additional) == (
        SenseKey.NOT_READY,
        AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE,
    )


def _conflict(response: Response) -> bool:
    return response.status is Status.RESERVATION_CONFLICT


def _bad_type(met: Met, step: Out) -> bool:
    # without a type of its own a step has that of the reservation, which is a good one
    return step.type is not None and step.type not in _TYPES


def _all_registrants(met: Met) -> bool:
    held = met.before.reservation
    return held is not None and held.holder is None


def _conflicts_here(met: Met, kernels: AdditionalSense) -> bool:
    return _conflict(met.ours) and _ends(met.kernels, kernels)


def _registers_others(met: Met, step: Out) -> bool:
    registers = step.action == OutServiceAction.REGISTER and bool(step.ports)
    return registers and met.ours.good and met.kernels.good


DIFFERENCES = (
    Difference(
        "not registered",
        "5.13.7: from a nexus that is not registered all but the two REGISTERs end in RESERVATION CONFLICT",
        _ANSWER,
        lambda met, step: not met.registered and _conflict(met.ours) and _not_ready(met.kernels),
    ),
    Difference(
        "length before conflict",
        "SAM-5 5.3.3: the conflict of 5.13.1 and 5.13.7 depends on no parameter list",
        _ANSWER,
        lambda met, step: step.length is not None and _conflicts_here(met, _LENGTH),
    ),
    Difference(
        "type first",
        "SAM-5 5.3.3: the conflict ranks before TYPE; 5.13.9: a holder's RESERVE of another type conflicts",
        _ANSWER,
        lambda met, step: _bad_type(met, step) and _conflicts_here(met, _IN_CDB),
    ),
    Difference(
        "type of nothing",
        "5.13.11.2.5 b): where no reservation is preempted TYPE is ignored",
        _ALL,
        lambda met, step: (
            step.action in _PREEMPTING
            and _bad_type(met, step)
            and met.ours.good
            and _ends(met.kernels, _IN_CDB)
        ),
    ),
    Difference(
        "scope of nothing",
        "5.13.11.2.5 b): where no reservation is preempted SCOPE is ignored",
        _ALL,
        lambda met, step: (
            step.action in _PREEMPTING and step.scope != 0 and met.ours.good and _ends(met.kernels, _IN_LIST)
        ),
    ),
    Difference(
        "scope in the list",
        "6.16.1: a SCOPE that is not implemented is INVALID FIELD IN CDB",
        _ANSWER,
        lambda met, step: step.scope != 0 and _ends(met.ours, _IN_CDB) and _ends(met.kernels, _IN_LIST),
    ),
    Difference(
        "scope first",
        "SAM-5 5.3.3, and 5.13.9: a holder's RESERVE of another scope conflicts",
        _ANSWER,
        lambda met, step: step.scope != 0 and _conflicts_here(met, _IN_LIST),
    ),
    Difference(
        "key 0 first",
        "SAM-5 5.3.3: the conflict of a wrong key, or of one that nobody has, ranks before it",
        _ANSWER,
        lambda met, step: step.action in _PREEMPTING and not met.new and _conflicts_here(met, _IN_LIST),
    ),
    Difference(
        "type before key 0",
        "none ranks one CHECK CONDITION before another",
        _ANSWER,
        lambda met, step: (
            step.action in _PREEMPTING
            and not met.new
            and _bad_type(met, step)
            and _ends(met.ours, _IN_LIST)
            and _ends(met.kernels, _IN_CDB)
        ),
    ),
    Difference(
        "nothing to release",
        "6.16.3: the key is verified whatever the service action",
        _ANSWER,
        lambda met, step: (
            step.action == OutServiceAction.RELEASE and _conflict(met.ours) and met.kernels.good
        ),
    ),
    Difference(
        "release of another",
        "5.13.11.2.2: TYPE or SCOPE of another reservation is INVALID RELEASE OF PERSISTENT RESERVATION",
        _ANSWER,
        lambda met, step: (
            step.action == OutServiceAction.RELEASE
            and _ends(met.ours, AdditionalSense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
            and _conflict(met.kernels)
        ),
    ),
    Difference(
        "unregistering is not counted",
        "6.16.2 table 213: REGISTER and REGISTER AND IGNORE EXISTING KEY increment PRgeneration",
        frozenset({"generation"}),
        lambda met, step: (
            step.action in _REGISTERING
            and not met.new
            and met.registered
            and met.ours.good
            and met.kernels.good
        ),
    ),
    Difference(
        "CLEAR ends APTPL",
        "5.13.5.1: the last APTPL of a REGISTER, REGISTER AND IGNORE or REGISTER AND MOVE decides",
        frozenset({"activated"}),
        lambda met, step: step.action == OutServiceAction.CLEAR and met.ours.good and met.kernels.good,
    ),
    Difference(
        "ALL_TG_PT for one port",
        "6.16.3: registered on all target ports; the kernel finds those by access lists, loopback has none",
        frozenset({"state"}),
        lambda met, step: (
            met.ports > 1
            and step.action in _REGISTERING
            and step.all_ports
            and met.ours.good
            and met.kernels.good
        ),
    ),
    Difference(
        "ALL_TG_PT for ever",
        "6.16.3: without ALL_TG_PT the registration of the command's own nexus is changed",
        _ALL,
        lambda met, step: (
            step.action in _REGISTERING
            and met.registered
            and not step.all_ports
            and met.ours.good
            and _ends(met.kernels, _IN_CDB)
        ),
    ),
    Difference(
        "SPEC_I_PT at another port",
        "6.16.3: with the command's target port; the kernel takes one where it knows the initiator",
        frozenset({"state"}),
        lambda met, step: met.ports > 1 and _registers_others(met, step),
    ),
    Difference(
        "SPEC_I_PT of oneself",
        "5.13.1: one reservation key for each nexus; the kernel registers the sender a second time",
        frozenset({"state"}),
        lambda met, step: met.nexus in (step.ports or ()) and _registers_others(met, step),
    ),
    Difference(
        "SPEC_I_PT of a registered one",
        "5.13.7 table 67 note b: INVALID FIELD IN PARAMETER LIST; the kernel leaves that one out",
        _ALL,
        lambda met, step: (
            step.action == OutServiceAction.REGISTER
            and bool(step.ports)
            and _ends(met.ours, _IN_LIST)
            and met.kernels.good
        ),
    ),
    Difference(
        "SPEC_I_PT counts each",
        "6.15.2: PRgeneration is incremented for a command, not for each nexus that it registers",
        frozenset({"generation"}),
        _registers_others,
    ),
    Difference(
        "SPEC_I_PT first",
        "SAM-5 5.3.3: the conflict ranks before what the parameter list says",
        _ANSWER,
        lambda met, step: step.ports is not None and _conflicts_here(met, _IN_LIST),
    ),
    Difference(
        "SPEC_I_PT before its length",
        "6.16.3 asks for ILLEGAL REQUEST and leaves the additional sense code open",
        _ANSWER,
        lambda met, step: (
            step.ports is not None and _ends(met.ours, _LENGTH) and _ends(met.kernels, _IN_LIST)
        ),
    ),
    Difference(
        "SPEC_I_PT unread",
        "6.16.3: a list that is not as long as it says is ILLEGAL REQUEST, whatever its keys are",
        _ANSWER,
        lambda met, step: (
            step.ports is not None
            and step.length is not None
            and _ends(met.ours, _LENGTH)
            and (met.kernels.good or _conflict(met.kernels))
        ),
    ),
    Difference(
        "REGISTER AND MOVE: length last",
        "6.16.4 asks for ILLEGAL REQUEST and leaves the additional sense code open",
        _ANSWER,
        lambda met, step: (
            step.action == OutServiceAction.REGISTER_AND_MOVE
            and step.length is not None
            and _ends(met.ours, _LENGTH)
            and (_ends(met.kernels, _IN_LIST) or _conflict(met.kernels))
        ),
    ),
    Difference(
        "REGISTER AND MOVE: list before reservation",
        "5.13.8: without a reservation INVALID FIELD IN CDB, under all registrants RESERVATION CONFLICT",
        _ANSWER,
        lambda met, step: (
            step.action == OutServiceAction.REGISTER_AND_MOVE
            and (_conflict(met.ours) or _ends(met.ours, _IN_CDB))
            and _ends(met.kernels, _IN_LIST)
        ),
    ),
    Difference(
        MOVED_BACK,
        "5.13.8 g): the scope stays; 5.13.9: a holder's RESERVE of its own type and scope is GOOD",
        _ANSWER,
        lambda met, step: (
            step.action == OutServiceAction.RESERVE and met.ours.good and _conflict(met.kernels)
        ),
    ),
    Difference(
        "no such action, length first",
        "none ranks one CHECK CONDITION before another",
        _ANSWER,
        lambda met, step: _no_such(step) and _ends(met.ours, _IN_CDB) and _ends(met.kernels, _LENGTH),
    ),
    Difference(
        "no such action, conflict",
        "5.13.1 table 66 has no row for it",
        _ANSWER,
        lambda met, step: _no_such(step) and _ends(met.ours, _IN_CDB) and _conflict(met.kernels),
    ),
    Difference(
        "all registrants: own registration stays",
        "5.13.11.2.5: PREEMPT with one's own key removes one's own registration too",
        _ALL,
        lambda met, step: (
            step.action in _PREEMPTING
            and _all_registrants(met)
            and bool(met.new)
            and met.new == met.key
            and met.ours.good
            and met.kernels.good
        ),
    ),
    Difference(
        "all registrants: one of them holds",
        "5.13.11.2.4.1 table 72: under all registrants a key that is not 0 removes registrations alone",
        _ALL,
        lambda met, step: (
            step.action in _PREEMPTING and _all_registrants(met) and bool(met.new) and met.kernels.good
        ),
    ),
)


def _no_such(step: Out) -> bool:
    return step.action not in set(OutServiceAction)


def _registered(nexus: int, key: Key, aptpl: bool = False) -> Out:
    return Out(nexus, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, new=key, aptpl=aptpl)


def _reserved(type: int) -> list[Step]:
    return [_registered(0, Key.FIRST), Out(0, OutServiceAction.RESERVE, type=type)]


_ONE: list[Step] = [_registered(0, Key.FIRST)]
_TWO: list[Step] = [*_ONE, _registered(1, Key.SECOND)]
_A = OutServiceAction

EXAMPLES: dict[str, list[Step]] = {
    ATTENTION_FIRST: [
        *_TWO,
        Out(0, _A.RESERVE, type=3),
        Out(0, _A.PREEMPT, new=Key.SECOND),
        Access(1, True),
    ],
    FORGOTTEN: [*_TWO, Out(0, _A.RESERVE, type=5), Out(0, _A.RELEASE), Out(0, _A.CLEAR), Look(1)],
    "not registered": [Out(0, _A.RESERVE, type=1)],
    "length before conflict": [Out(0, _A.RESERVE, type=1, length=8)],
    "type first": [Out(0, _A.PREEMPT, type=0)],
    "type of nothing": [*_ONE, Out(0, _A.PREEMPT, new=Key.OWN, type=0)],
    "scope of nothing": [*_ONE, Out(0, _A.PREEMPT, new=Key.OWN, type=1, scope=1)],
    "scope in the list": [*_ONE, Out(0, _A.RESERVE, type=1, scope=1)],
    "scope first": [*_reserved(1), Out(0, _A.RESERVE, type=1, scope=1)],
    "key 0 first": [*_ONE, Out(0, _A.PREEMPT, type=1)],
    "type before key 0": [*_reserved(1), Out(0, _A.PREEMPT, type=0)],
    "nothing to release": [*_ONE, Out(0, _A.RELEASE, Key.WRONG, type=1)],
    "release of another": [*_reserved(1), Out(0, _A.RELEASE, type=3)],
    "unregistering is not counted": [*_ONE, Out(0, _A.REGISTER)],
    "CLEAR ends APTPL": [_registered(0, Key.FIRST, aptpl=True), Out(0, _A.CLEAR)],
    "ALL_TG_PT for one port": [Out(0, _A.REGISTER, new=Key.FIRST, all_ports=True)],
    "SPEC_I_PT at another port": [Out(0, _A.REGISTER, new=Key.FIRST, ports=(1,))],
    "ALL_TG_PT for ever": [
        Out(0, _A.REGISTER, new=Key.FIRST, all_ports=True),
        Out(0, _A.REGISTER, new=Key.SECOND),
    ],
    "SPEC_I_PT counts each": [Out(0, _A.REGISTER, new=Key.FIRST, ports=(1, 2))],
    "SPEC_I_PT of oneself": [Out(0, _A.REGISTER, new=Key.FIRST, ports=(0, 2))],
    "SPEC_I_PT of a registered one": [*_ONE, Out(1, _A.REGISTER, new=Key.SECOND, ports=(0,))],
    "SPEC_I_PT first": [*_ONE, Out(0, _A.RESERVE, Key.WRONG, type=1, ports=())],
    "SPEC_I_PT before its length": [Out(0, _A.REGISTER, new=Key.FIRST, ports=(), length=25)],
    "SPEC_I_PT unread": [Out(0, _A.REGISTER, ports=(), length=25)],
    "REGISTER AND MOVE: length last": [
        *_ONE,
        Out(0, _A.REGISTER_AND_MOVE, new=Key.SECOND, to=1, length=32),
    ],
    "REGISTER AND MOVE: list before reservation": [*_ONE, Out(0, _A.REGISTER_AND_MOVE, to=1)],
    MOVED_BACK: [
        *_TWO,
        Out(0, _A.RESERVE, type=1),
        Out(0, _A.REGISTER_AND_MOVE, new=Key.SECOND, to=1),
        Out(1, _A.REGISTER_AND_MOVE, new=Key.FIRST, to=0),
    ],
    "no such action, length first": [Out(0, 31, length=8)],
    "no such action, conflict": [*_reserved(1), Out(1, 31)],
    "all registrants: own registration stays": [*_reserved(7), Out(0, _A.PREEMPT, new=Key.OWN)],
    "all registrants: one of them holds": [
        *_TWO,
        Out(0, _A.RESERVE, type=7),
        Out(1, _A.PREEMPT, new=Key.FIRST, type=1),
    ],
}
"""The shortest sequence that shows each."""
