"""Several hosts' spans on one axis."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdover.trace.trace import HostTrace, Interval, IntervalKind, assemble, kind_of
from tests.trace.traces import AHEAD, LUNS, destination, driver, handover, source


def test_what_an_interval_is_shows_in_its_name() -> None:
    assert kind_of("state prepared", "") is IntervalKind.STATE
    assert kind_of("work preempt", "") is IntervalKind.WORK
    assert kind_of("drain", "") is IntervalKind.WORK
    assert kind_of("message commit", "") is IntervalKind.MESSAGE
    assert kind_of("journal", "") is IntervalKind.JOURNAL
    assert kind_of("PREEMPT", "naa.1") is IntervalKind.COMMAND
    assert Interval("prepare", "d", "", 0, 1, step=True).kind is IntervalKind.STEP


def test_a_clock_that_is_ahead_is_found_by_the_messages() -> None:
    trace = handover()
    shift = trace.shifts[0]
    assert shift.host == "b"
    assert shift.within is not None
    assert abs(shift.seconds + AHEAD) <= shift.within
    # the tightest message leaves 1 ms on each side
    assert shift.within == pytest.approx(0.001)
    outer = next(each for each in trace.intervals if each.name == "message commit")
    inner = next(each for each in trace.intervals if each.name == "state preempting")
    assert outer.began <= inner.began
    assert inner.ended <= outer.ended


def test_clocks_that_agree_are_left_alone() -> None:
    assert [(each.host, each.seconds) for each in handover(0.0).shifts] == [
        ("b", 0.0),
        ("holdover migrate", 0.0),
    ]


def test_a_drivers_clock_is_found_by_its_requests() -> None:
    late = driver()
    late = replace(
        late,
        intervals=tuple(replace(each, began=each.began - 5, ended=each.ended - 5) for each in late.intervals),
    )
    trace = assemble("db1", "h1", source(), destination(0.0), late)
    shift = trace.shifts[1]
    assert shift.seconds == pytest.approx(5, abs=0.01)
    commit = next(each for each in trace.intervals if each.name == "commit")
    leaving = next(each for each in trace.intervals if each.name == "state leaving")
    assert commit.began <= leaving.began <= leaving.ended <= commit.ended


def test_without_a_pair_nothing_is_known_of_the_clocks() -> None:
    alone = HostTrace("b", destination().intervals[-1:])
    assert assemble("db1", "h1", source(), alone).shifts[0].within is None


def test_a_message_that_was_sent_twice_is_no_pair() -> None:
    twice = source()
    again = next(each for each in twice.intervals if each.name == "message commit")
    lost = replace(again, began=10.5, ended=10.9)
    trace = assemble("db1", "h1", replace(twice, intervals=(*twice.intervals, lost)), destination())
    # prepare alone tells: 2 ms on each side
    assert trace.shifts[0].within == pytest.approx(0.002)


def test_a_clock_that_was_set_meanwhile_is_met_in_the_middle() -> None:
    there = destination()
    moved = tuple(
        replace(each, began=each.began + 1, ended=each.ended + 1) if each.began > 11 + AHEAD else each
        for each in there.intervals
    )
    shift = assemble("db1", "h1", source(), replace(there, intervals=moved)).shifts[0]
    assert -AHEAD - 1 < shift.seconds < -AHEAD
    assert shift.within == pytest.approx(1, abs=0.01)


def test_the_standstill_is_from_stop_to_resume() -> None:
    still = handover().standstill
    assert still is not None
    assert still[1] - still[0] == pytest.approx(0.011, abs=0.0015)
    without = source()
    assert assemble("db1", "h1", replace(without, instants=()), destination()).standstill is None


def test_all_is_in_the_order_of_its_beginning_and_within_its_ends() -> None:
    trace = handover()
    assert trace.luns == LUNS
    assert [each.began for each in trace.intervals] == sorted(each.began for each in trace.intervals)
    assert trace.began == pytest.approx(9.999)
    assert trace.ended == pytest.approx(11.010, abs=0.0015)
