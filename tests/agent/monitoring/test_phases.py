"""Which durations and ends a handover adds to the metrics."""

from __future__ import annotations

from itertools import count

from holdover.agent.handover.phases import Phases
from holdover.handover.states import DestinationState as D
from holdover.handover.states import SourceState as S
from holdover.metrics.measurements import Measurements


def counted(*states: S | D) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
    measurements = Measurements()
    clock = count(0.0, 1.0)
    phases = Phases(measurements, lambda: next(clock))
    for state in states:
        phases.enter(state)
    found = {key: each.count for key, each in measurements.phases.items() if each.count}
    return found, {key: number for key, number in measurements.ends.items() if number}


def test_a_guest_that_moves() -> None:
    source = (
        S.CHECKING, S.PREPARING, S.CONFIRMING, S.PREPARED,
        S.LEAVING, S.GIVING, S.COMMITTING, S.COMMITTED, S.SETTLING, S.TELLING, S.GONE,
    )  # fmt: skip
    assert counted(*source) == (
        {("source", "prepare"): 1, ("source", "commit"): 1, ("source", "finish"): 1},
        {("source", "moved"): 1},
    )
    destination = (D.REGISTERING, D.PREPARED, D.PREEMPTING, D.COMMITTED, D.VERIFYING, D.HERE)
    assert counted(*destination) == ({("destination", "commit"): 1}, {("destination", "moved"): 1})


def test_a_guest_that_stays_and_a_recheck_that_counts_for_nothing() -> None:
    source = (S.CHECKING, S.PREPARED, S.CHECKING, S.PREPARED, S.UNDOING, S.STAYED)
    assert counted(*source) == (
        {("source", "prepare"): 1, ("source", "rollback"): 1},
        {("source", "stayed"): 1},
    )


def test_a_taken_guest_is_counted_once() -> None:
    assert counted(D.TAKING, D.TAKEN, D.TAKEN) == ({}, {("destination", "taken"): 1})
