"""The bytes that a target may hold, and transfers that do not go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.stall import StallWatch


def test_there_is_room_up_to_the_limit() -> None:
    budget = ByteBudget(10)
    assert budget.take(6)
    assert not budget.take(5)
    assert budget.take(4)
    assert budget.take(0)
    budget.give(6)
    assert budget.take(5)
    assert budget.used == 9


def test_who_holds_nothing_gets_in_whatever_others_hold() -> None:
    whole = ByteBudget(10)
    one, other = ByteBudget(8, whole), ByteBudget(8, whole)
    assert one.take(8)
    assert other.take(50)
    assert not other.take(1)
    assert not one.take(1)
    assert whole.used == 58


def test_unsolicited_data_has_half_of_the_room_and_keeps_nobody_from_going_on() -> None:
    whole = ByteBudget(30)
    budget = ByteBudget(20, whole)
    assert budget.take_unsolicited(10)
    assert not budget.take_unsolicited(1)
    assert budget.take(11)
    assert not budget.take(1)
    budget.give(11)
    budget.give(10, 10)
    assert (budget.used, budget.unsolicited, whole.used, whole.unsolicited) == (0, 0, 0, 0)
    assert not budget.take_unsolicited(11)
    other = ByteBudget(20, whole)
    assert other.take_unsolicited(10)
    assert budget.take_unsolicited(2)
    # half of the whole is 15
    assert not budget.take_unsolicited(4)


def test_the_unsolicited_data_of_one_command_gets_in_whatever_others_hold() -> None:
    whole = ByteBudget(10)
    one, other = ByteBudget(8, whole), ByteBudget(8, whole)
    assert one.take(8)
    assert one.take_unsolicited(0)
    assert not other.take_unsolicited(5)  # more than half of its own room
    assert other.take_unsolicited(4)
    assert not other.take_unsolicited(1)
    assert other.take(20)
    assert not other.take(1)
    other.give(24, 4)
    assert other.take_unsolicited(4)
    assert whole.used == 12


def test_who_waits_is_woken_once_by_whoever_gives() -> None:
    whole = ByteBudget(10)
    one, other = ByteBudget(8, whole), ByteBudget(8, whole)
    woken: list[str] = []
    one.take(4)
    other.take(6)
    one.wait(lambda: woken.append("one"))

    def forgotten() -> None:
        woken.append("forgotten")

    one.wait(forgotten)
    one.wait_no_more(forgotten)
    other.give(2)
    other.give(2)
    assert woken == ["one"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=50))
def test_what_is_held_is_within_the_limits_but_for_one_command_each(steps: list[tuple[int, int]]) -> None:
    whole = ByteBudget(30)
    parts = [ByteBudget(20, whole) for _ in range(3)]
    held: list[list[int]] = [[], [], []]
    for number, count in steps:
        if parts[number].take(count):
            held[number].append(count)
        elif held[number]:
            parts[number].give(held[number].pop(0))
        for part, counts in zip(parts, held, strict=True):
            assert part.used == sum(counts)
            assert part.used <= 20 or len([each for each in counts if each]) == 1
        assert whole.used == sum(part.used for part in parts)
        assert whole.used <= 30 + 2 * 20
    for part, counts in zip(parts, held, strict=True):
        for count in counts:
            part.give(count)
    assert whole.used == 0


@pytest.mark.parametrize(("looks", "stalled"), [((0, 9.9), False), ((0, 10), True), ((0, 5, 10), True)])
def test_a_transfer_that_stays_where_it_was(looks: tuple[float, ...], stalled: bool) -> None:
    watch = StallWatch(10)
    found = [watch.stalled([("write", 7)], now) for now in looks]
    assert any(found) is stalled


def test_one_that_goes_on_or_ends_does_not() -> None:
    watch = StallWatch(10)
    for now in range(100):
        assert not watch.stalled([("write", now)], now)
    assert not watch.stalled([], 200)
    assert not watch.stalled([("write", 99)], 300)
