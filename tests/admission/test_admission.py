"""Which connections a process takes: whatever comes and goes, and in whatever order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdover.admission.admission import Admission, AdmittedConnection, Allowance, FrontEnd

GROUPS = ("", "uid 0", "uid 65534")
PARTIES = ("address 10.0.0.1", "address 10.0.0.2", "uid 0", "uid 65534")


def allowance(
    strangers: int = 4,
    each: int = 2,
    known: int = 8,
    known_each: int = 3,
    kept: int = 2,
    group: int | None = None,
) -> Allowance:
    return Allowance(
        strangers=strangers,
        strangers_each=each,
        known=known,
        known_each=known_each,
        kept=kept,
        known_of_group=group,
    )


allowances = st.builds(
    allowance,
    strangers=st.integers(1, 5),
    each=st.integers(1, 3),
    known=st.integers(1, 6),
    known_each=st.integers(1, 3),
    kept=st.integers(0, 2),
    group=st.none() | st.integers(1, 4),
)


class FrontEnds(RuleBasedStateMachine):
    """Three front ends of one process."""

    @initialize(capacity=st.integers(6, 12), each=st.lists(allowances, min_size=3, max_size=3))
    def open(self, capacity: int, each: list[Allowance]) -> None:
        self.admission = Admission(capacity)
        self.front_ends = [self.admission.front_end(str(number), one) for number, one in enumerate(each)]
        self.here: list[AdmittedConnection] = []

    @rule(number=st.integers(0, 2), party=st.sampled_from(PARTIES))
    def comes(self, number: int, party: str) -> None:
        front_end = self.front_ends[number]
        others = sum(
            max(each.count, each.allowance.kept) for each in self.front_ends if each is not front_end
        )
        before = front_end.count
        entry, victim = front_end.enter(party)
        if victim is not None:
            assert not victim.is_known
            assert not victim.is_here
            assert victim.front_end is front_end
            self.here.remove(victim)
        if entry is None:
            # only where every place is taken or kept, and nobody at this front end could make room
            assert before >= front_end.allowance.kept
            assert others + max(before, front_end.allowance.kept) >= self.admission.capacity
            assert not [each for each in self.here if each.front_end is front_end and not each.is_known]
        else:
            self.here.append(entry)

    @rule(data=st.data(), party=st.sampled_from(PARTIES), group=st.sampled_from(GROUPS))
    def says_who_it_is(self, data: st.DataObject, party: str, group: str) -> None:
        strangers = [entry for entry in self.here if not entry.is_known]
        if not strangers:
            return
        entry = data.draw(st.sampled_from(strangers))
        known = [each for each in self.here if each.front_end is entry.front_end and each.is_known]
        allowed = entry.front_end.allowance
        room = len(known) < allowed.known and len([e for e in known if e.party == party]) < allowed.known_each
        most = allowed.known_of_group
        room = room and (not group or most is None or len([e for e in known if e.group == group]) < most)
        assert entry.known_as(party, group) is room
        assert entry.is_known is room

    @rule(data=st.data())
    def goes(self, data: st.DataObject) -> None:
        if self.here:
            entry = data.draw(st.sampled_from(self.here))
            entry.leave()
            entry.leave()
            self.here.remove(entry)

    @invariant()
    def nobody_has_more_than_his_share(self) -> None:
        if not hasattr(self, "admission"):
            return
        assert self.admission.count == len(self.here) <= self.admission.capacity
        for front_end in self.front_ends:
            here = [entry for entry in self.here if entry.front_end is front_end]
            assert front_end.count == len(here)
            strangers = Counter(entry.party for entry in here if not entry.is_known)
            known = Counter(entry.party for entry in here if entry.is_known)
            assert strangers.total() <= front_end.allowance.strangers
            assert known.total() <= front_end.allowance.known
            assert max(strangers.values(), default=0) <= front_end.allowance.strangers_each
            assert max(known.values(), default=0) <= front_end.allowance.known_each
            groups = Counter(entry.group for entry in here if entry.is_known and entry.group)
            if front_end.allowance.known_of_group is not None:
                assert max(groups.values(), default=0) <= front_end.allowance.known_of_group


TestFrontEnds = FrontEnds.TestCase


def fill(front_end: FrontEnd, party: str, count: int) -> list[AdmittedConnection]:
    found = []
    for _ in range(count):
        entry, _ = front_end.enter(party)
        if entry is not None:
            found.append(entry)
    return found


def test_who_says_nothing_makes_room_for_who_comes() -> None:
    front_end = Admission(100).front_end("d", allowance(strangers=4, each=4))
    silent = fill(front_end, "address a", 4)
    entry, victim = front_end.enter("address b")
    assert victim is silent[0]
    assert entry is not None
    # the newcomer of another address is not the next to go, though there is no room for one more either
    _, victim = front_end.enter("address a")
    assert victim is silent[1]
    assert entry.is_here
    assert front_end.refused == 2


def test_who_is_known_is_never_put_out_for_a_stranger() -> None:
    front_end = Admission(100).front_end("d", allowance(strangers=2, each=2, known=3, known_each=3))
    known = fill(front_end, "address a", 2)
    assert all(entry.known_as("host-b") for entry in known)
    fill(front_end, "address a", 1000)
    assert all(entry.is_here for entry in known)


@given(st.integers(1, 500))
def test_a_front_end_keeps_its_places_whatever_comes_by_others(flood: int) -> None:
    admission = Admission(16)
    crowded = admission.front_end(
        "export", allowance(strangers=400, each=400, known=400, known_each=400, kept=2)
    )
    operators = admission.front_end("API", allowance(strangers=2, each=2, known=8, known_each=8, kept=3))
    for entry in fill(crowded, "address a", flood):
        entry.known_as("initiator a")
    for _ in range(3):
        operator, victim = operators.enter("uid 0")
        assert operator is not None
        assert victim is None
        assert operator.known_as("uid 0")


def test_a_front_end_that_is_closed_keeps_nothing() -> None:
    admission = Admission(4)
    first, second = admission.front_end("a", allowance(kept=4)), admission.front_end("b", allowance(kept=0))
    assert second.enter("x") == (None, None)
    admission.close(first)
    assert second.enter("x")[0] is not None


def test_one_that_has_left_is_not_known_any_more() -> None:
    front_end = Admission(4).front_end("a", allowance())
    entry, _ = front_end.enter("x")
    assert entry is not None
    entry.leave()
    assert not entry.known_as("x")
    assert front_end.count == 0


@pytest.mark.parametrize("capacity", [0, 1])
def test_where_there_is_no_place_nobody_comes_in(capacity: int) -> None:
    front_end = Admission(capacity).front_end("a", allowance(known_each=8))
    assert len([entry for entry in fill(front_end, "x", 5) if entry.is_here]) == capacity
