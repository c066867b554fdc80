"""What a nexus has, found on the project's own logical unit: without changing anything, whatever is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace

from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.logical_unit import LogicalUnit
from holdover.lun.reservations import ReservationState
from holdover.reservations.driver import run_sync
from holdover.reservations.own_registration import Difference, Found, compare, find_own_registration
from holdover.reservations.steps import StepFailed, Steps, T
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import PersistentReserveIn
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import (
    AdditionalSense,
    SenseKey,
    check_condition,
    describe_response,
    is_unit_attention,
)
from holdover.scsi.status import Status
from tests.lun.support import MemoryMedium
from tests.rig.amounts import amount

FULL, CAPABILITIES = InServiceAction.READ_FULL_STATUS, InServiceAction.REPORT_CAPABILITIES
WE = ReservationType.WRITE_EXCLUSIVE
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
WEAR = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS
REGISTER, RESERVE = OutServiceAction.REGISTER, OutServiceAction.RESERVE
LACKING = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


def nexus(name: str) -> ITNexus:
    return ITNexus(IscsiTransportID(f"iqn.2026-11.org.example:{name}", b"\x80\0\0\0\0\1"))


SELF, THIRD, FOURTH = map(nexus, ("self", "third", "fourth"))


@dataclass
class Rig:
    """A logical unit of which some service actions may be missing, and what happens beside the questions."""

    unit: LogicalUnit = field(default_factory=lambda: LogicalUnit(MemoryMedium(), UnitIdentity("test")))
    missing: frozenset[int] = frozenset()
    faults: dict[int, bool] = field(default_factory=dict)
    """The number of a command -> whether it is carried out before its answer is lost."""
    carried: tuple[str, ...] = ()
    """The paths that a PERSISTENT RESERVE OUT names, while one path of a multipath device can be used."""
    twin: ITNexus | None = None
    """A second path of this host, for which a PERSISTENT RESERVE OUT is carried out too."""
    beside: dict[int, Callable[[], None]] = field(default_factory=dict)
    """The number of a command -> what others do before it."""
    sent: list[Command] = field(default_factory=list)
    history: list[ReservationState] = field(default_factory=list)

    def run(self, steps: Steps[T]) -> T:
        """Run steps as SELF; no command of theirs may change what any nexus has."""

        def carry_out(command: Command) -> Response:
            number = len(self.sent)
            self.sent.append(command)
            if number in self.beside:
                self.beside[number]()
                self.history.append(self.unit.state)
            fault = self.faults.get(number)
            before = self.unit.state
            answer = self.answer(command) if fault is not False else None
            after = self.unit.state
            assert structs.replace(before, generation=0) == structs.replace(after, generation=0), command
            self.history.append(after)
            if fault is None and answer is not None:
                return answer
            raise AnswerLost("memory", "lost")

        return run_sync(steps, carry_out)

    def answer(self, command: Command) -> Response:
        if command.opcode == OperationCode.PERSISTENT_RESERVE_IN and command.cdb[1] in self.missing:
            return LACKING
        response = self.unit.execute(SELF, command)
        if self.carried and response.good and command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            response = structs.replace(response, carried=self.carried)
        if self.twin is not None and command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            both = self.do(self.twin, command).good and response.good
            response = structs.replace(response, carried=("host1", "host2")) if both else response
        return response

    def do(self, who: ITNexus, command: Command) -> Response:
        response = self.unit.execute(who, command)
        while is_unit_attention(response):
            response = self.unit.execute(who, command)
        return response

    def must(self, who: ITNexus, command: Command) -> None:
        response = self.do(who, command)
        assert response.good, describe_response(response)

    @property
    def truth(self) -> Tracked:
        return truth_in(self.unit.state)

    def probes(self) -> list[int]:
        """The keys that were probed, in their order."""
        return [
            int.from_bytes(each.data_out[:8], "big")
            for each in self.sent
            if each.opcode == OperationCode.PERSISTENT_RESERVE_OUT
        ]


def truth_in(state: ReservationState) -> Tracked:
    key = state.key_of(SELF)
    if key == 0:
        return Tracked()
    held = state.reservation
    kind = held.type if held is not None and state.holds(SELF) else None
    return Tracked(key, state.aptpl, kind)


@dataclass(frozen=True)
class Act:
    """Something that a nexus does, with the key that it has when its turn comes."""

    who: ITNexus
    action: OutServiceAction
    new_key: int
    type: ReservationType
    aptpl: bool | None
    """None: as it is."""

    def do(self, rig: Rig) -> None:
        state = rig.unit.state
        aptpl = state.aptpl if self.aptpl is None else self.aptpl
        command = out_command(self.action, state.key_of(self.who), self.new_key, type=self.type, aptpl=aptpl)
        rig.do(self.who, command)


def acts(*who: ITNexus, aptpl: st.SearchStrategy[bool | None]) -> st.SearchStrategy[Act]:
    actions = [each for each in OutServiceAction if each != OutServiceAction.REGISTER_AND_MOVE]
    return st.builds(
        Act,
        st.sampled_from(who),
        st.sampled_from([REGISTER, REGISTER, RESERVE, RESERVE, *actions]),
        st.sampled_from([1, 1, 2, 3, 0]),
        st.sampled_from(ReservationType),
        aptpl,
    )


_past = st.lists(acts(SELF, THIRD, FOURTH, aptpl=st.booleans()), max_size=10)
_missing = st.sets(st.sampled_from([FULL, CAPABILITIES])).map(frozenset)
_faults = st.dictionaries(st.integers(0, 14), st.booleans(), max_size=3)
_candidates = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def set_up(past: list[Act], missing: frozenset[int]) -> Rig:
    rig = Rig(missing=missing)
    for act in past:
        act.do(rig)
    rig.history.append(rig.unit.state)
    return rig


@settings(max_examples=amount(400, 1_500), deadline=None)
@given(_past, _missing, _faults, _candidates, st.booleans())
def test_it_finds_what_is_true_or_says_that_it_cannot(
    past: list[Act],
    missing: frozenset[int],
    faults: dict[int, bool],
    candidates: tuple[int, ...],
    known: bool,
) -> None:
    rig = set_up(past, missing)
    rig.faults = faults
    before, truth = rig.unit.state, rig.truth
    found = rig.run(find_own_registration(candidates, aptpl=before.aptpl, nexus=SELF if known else None))
    assert structs.replace(rig.unit.state, generation=before.generation) == before
    assert found.nexus in (None, SELF)
    if found.certain:
        assert (found.tracked, found.reason) == (truth, "")
        return
    assert replace(truth, type=None) == found.tracked
    assert found.reason
    assert not known or FULL in missing
    held, keys = before.reservation, [each.key for each in before.registrations]
    assert held is not None
    assert held.holder is not None
    assert before.key_of(held.holder) == truth.key
    assert keys.count(truth.key) > 1


# A node that sets APTPL in the moment before a probe has it set back: no command asks for it alone.
@settings(max_examples=amount(400, 1_500), deadline=None)
@given(
    _past,
    _missing,
    _faults,
    st.dictionaries(st.integers(0, 20), acts(THIRD, FOURTH, aptpl=st.none()), min_size=1, max_size=4),
    st.booleans(),
)
def test_beside_others_at_work_it_finds_what_was_true_at_one_instant(
    past: list[Act],
    missing: frozenset[int],
    faults: dict[int, bool],
    beside: dict[int, Act],
    known: bool,
) -> None:
    rig = set_up(past, missing)
    rig.faults = faults
    rig.beside = {number: partial(act.do, rig) for number, act in beside.items()}
    aptpl = rig.unit.state.aptpl
    found = rig.run(find_own_registration((1,), aptpl=aptpl, nexus=SELF if known else None))
    if found.certain:
        assert found.tracked in [truth_in(each) for each in rig.history]


@settings(max_examples=amount(300, 800), deadline=None)
@given(_past, _missing, _faults, st.booleans(), acts(SELF, THIRD, aptpl=st.booleans()))
def test_compare_sees_what_changed_unless_a_third_nexus_hides_it(
    past: list[Act], missing: frozenset[int], faults: dict[int, bool], known: bool, act: Act
) -> None:
    rig = set_up(past, missing)
    tracked = rig.truth
    act.do(rig)
    rig.faults = faults
    generation = rig.unit.state.generation
    told = rig.run(compare(tracked, nexus=SELF if known else None))
    assert rig.unit.state.generation == generation
    assert all(each.opcode == OperationCode.PERSISTENT_RESERVE_IN for each in rig.sent)
    truth, now = rig.truth, rig.unit.state
    if CAPABILITIES in missing:
        truth = replace(truth, aptpl=tracked.aptpl and truth.key != 0)
    alone = sum(each.key == tracked.key for each in now.registrations) <= 1
    named = known and FULL not in missing
    if named or (truth.key and truth.key == tracked.key and alone):
        assert told.found == truth
    assert bool(told.reason) == (told.found is None or not same(tracked, told.found))


def same(tracked: Tracked, found: Tracked) -> bool:
    shared = tracked.type is None and found.type is not None and found.type.all_registrants
    return tracked == (replace(found, type=None) if shared else found)


def registered(*keys: tuple[ITNexus, int], aptpl: bool = False) -> Rig:
    rig = Rig()
    for who, key in keys:
        rig.must(who, out_command(REGISTER, 0, key, aptpl=aptpl))
    return rig


def test_the_keys_that_it_may_have_are_tried_first() -> None:
    rig = registered((THIRD, 1), (SELF, 2), (FOURTH, 3))
    assert rig.run(find_own_registration((9, 2))) == Found(Tracked(2), certain=True, nexus=SELF)
    assert rig.probes() == [2]


def test_then_whether_it_has_none_then_the_keys_of_others() -> None:
    rig = registered((THIRD, 1), (SELF, 2))
    assert rig.run(find_own_registration((9,))).tracked == Tracked(2)
    assert rig.probes() == [0, 1, 2]
    rig = registered((THIRD, 1))
    assert rig.run(find_own_registration((1,))) == Found(Tracked(), certain=True)
    assert rig.probes() == [1, 0]


def test_a_nexus_that_is_known_is_found_by_reading_alone() -> None:
    rig = registered((THIRD, 5), (SELF, 5))
    rig.must(SELF, out_command(RESERVE, 5, type=WE))
    assert rig.run(find_own_registration(nexus=SELF)) == Found(Tracked(5, type=WE), certain=True, nexus=SELF)
    assert rig.probes() == []


def test_the_one_path_that_is_registered_is_not_taken_for_the_whole_device() -> None:
    rig = registered((THIRD, 9), (SELF, 5))
    rig.carried = ("host1",)
    found = rig.run(find_own_registration((5,)))
    assert found == Found(Tracked(5), certain=True)  # no nexus: another path may come back, and may reserve
    rig.must(FOURTH, out_command(REGISTER, 0, 5))
    rig.must(FOURTH, out_command(RESERVE, 5, type=WERO))
    rig.twin, rig.carried = FOURTH, ()
    again = rig.run(find_own_registration((5,), nexus=found.nexus))
    assert again == Found(Tracked(5, type=WERO), certain=True)


@pytest.mark.parametrize("own", [5, 0])
def test_a_path_that_is_away_may_hold_the_reservation_with_another_key_of_the_guest(own: int) -> None:
    rig = registered(*([(SELF, own)] if own else []), (FOURTH, 6))
    rig.must(FOURTH, out_command(RESERVE, 6, type=WERO))
    rig.carried = ("host1",)
    found = rig.run(find_own_registration((5, 6)))
    assert (found.tracked, found.certain) == (Tracked(own), False)
    assert "held with key 0x6, which the guest had or may have set" in found.reason
    assert rig.run(find_own_registration((5,))).certain
    rig.carried = ()
    assert rig.run(find_own_registration((5, 6))).certain


def test_of_two_with_one_key_the_holder_cannot_be_told() -> None:
    rig = registered((THIRD, 5), (SELF, 5))
    rig.must(THIRD, out_command(RESERVE, 5, type=WERO))
    found = rig.run(find_own_registration((5,)))
    assert (found.tracked, found.certain) == (Tracked(5), False)
    assert found.reason == (
        "the reservation of type wero is held with key 0x5, which 2 nexuses have; "
        "it is not known which of them holds it"
    )


@pytest.mark.parametrize("missing", [frozenset({FULL}), frozenset()])
def test_two_paths_of_this_host_with_one_key_are_one_guest(missing: frozenset[int]) -> None:
    rig = registered((THIRD, 5), (SELF, 5))
    rig.must(THIRD, out_command(RESERVE, 5, type=WERO))
    rig.twin, rig.missing = THIRD, missing
    assert rig.run(find_own_registration((5,))) == Found(Tracked(5, type=WERO), certain=True)
    assert rig.probes() == [5, 5]
    told = rig.run(compare(Tracked(5, type=WERO)))
    assert told == Difference(Tracked(5, type=WERO), Tracked(5, type=WERO))


def test_a_third_node_with_the_key_of_two_paths_is_not_taken_for_one_of_them() -> None:
    rig = registered((THIRD, 5), (SELF, 5), (FOURTH, 5))
    rig.must(FOURTH, out_command(RESERVE, 5, type=WERO))
    rig.twin = THIRD
    found = rig.run(find_own_registration((5,)))
    assert (found.tracked, found.certain) == (Tracked(5), False)


def test_a_lun_without_report_capabilities_is_probed_with_the_aptpl_that_is_said_to_be_active() -> None:
    rig = registered((SELF, 5), aptpl=True)
    rig.missing = frozenset({CAPABILITIES})
    assert rig.run(find_own_registration((5,), aptpl=True)).tracked == Tracked(5, True)
    assert rig.unit.state.aptpl


def test_a_key_beyond_those_that_are_tried() -> None:
    many = [(nexus(f"n{number}"), number) for number in range(1, 70)]
    rig = registered(*many, (SELF, 100))
    found = rig.run(find_own_registration())
    assert (found.tracked, found.certain) == (Tracked(), False)
    assert "a key that READ KEYS does not show" in found.reason
    assert len(rig.probes()) == 65


def test_others_that_never_rest() -> None:
    rig = registered((SELF, 5))
    key = [0]

    def again() -> None:
        rig.must(THIRD, out_command(REGISTER, key[0], key[0] + 1))
        key[0] += 1

    # before the probe of each round
    rig.beside = dict.fromkeys(range(3, 100, 6), again)
    found = rig.run(find_own_registration((5,)))
    assert (found.certain, found.reason) == (
        False,
        "the registrations change during every reading; try again when other nodes are quiet",
    )


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([Response(Status.BUSY)], "READ KEYS: .*BUSY"),
        ([Response(Status.GOOD, b"\0")], "READ KEYS: .*length of 1"),
        ([None] * 12, "no answer came to repeated commands"),
        ([Response(Status.GOOD, bytes(8))] * 2 + [Response(Status.BUSY)], "REPORT CAPABILITIES: .*BUSY"),
        ([Response(Status.GOOD, bytes(8))] * 2 + [Response(Status.GOOD, b"")], "REPORT CAPABILITIES"),
        (
            [Response(Status.GOOD, bytes(8))] * 2
            + [Response(Status.GOOD, b"\0\x08" + bytes(6)), Response(Status.BUSY)],
            r"REGISTER \(probe\): .*BUSY",
        ),
        (
            [Response(Status.GOOD, bytes(8))] * 2
            + [Response(Status.GOOD, b"\0\x08" + bytes(6))]
            + [None] * 12,
            r"REGISTER \(probe\): no answer came to repeated commands; .* whether the LUN carried them out",
        ),
    ],
)
def test_a_lun_that_does_not_say(answers: list[Response | None], problem: str) -> None:
    steps = find_own_registration()
    next(steps)

    def go_on() -> None:
        for answer in answers:
            if answer is None:
                steps.throw(AnswerLost("memory", "lost"))
            else:
                steps.send(answer)

    with pytest.raises(StepFailed, match=problem):
        go_on()


@pytest.mark.parametrize("answer", [Response(Status.BUSY), Response(Status.GOOD, b"")])
def test_a_full_status_that_is_none(answer: Response) -> None:
    steps = find_own_registration(nexus=SELF)
    command = next(steps)
    assert PersistentReserveIn.decode(command.cdb).service_action == FULL
    with pytest.raises(StepFailed, match="READ FULL STATUS"):
        steps.send(answer)


@pytest.mark.parametrize(
    ("tracked", "found", "reason"),
    [
        (Tracked(5, type=WE), Tracked(5, type=WE), ""),
        (Tracked(5), Tracked(5, type=WEAR), ""),
        (
            Tracked(4),
            Tracked(),
            "the guest was seen to register key 0x4, the LUN has nothing for this host's nexus",
        ),
        (Tracked(5, type=WE), Tracked(5), "the guest was seen to hold we; the LUN reports nothing"),
        (Tracked(5, True), Tracked(5), "the guest registered with APTPL 1; the LUN reports 0"),
    ],
)
def test_a_difference_in_words(tracked: Tracked, found: Tracked, reason: str) -> None:
    rig = registered((SELF, found.key)) if found.key else Rig()
    if found.type is not None:
        rig.must(SELF, out_command(RESERVE, 5, type=found.type))
    assert rig.run(compare(tracked)) == Difference(tracked, found, reason)
    assert rig.run(compare(tracked, nexus=SELF)) == Difference(tracked, found, reason)
