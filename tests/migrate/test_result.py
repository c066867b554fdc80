"""The exit status: 3 where nobody knows where the guest is, and 1 where that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdover.api.documents import Problem
from holdover.handover.state_table import Place
from holdover.handover.states import DestinationState, SourceState
from holdover.migrate.result import ExitStatus, exit_status, is_in_doubt
from holdover.migrate.state_description import place_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "exit-status.md"
STATES = [*SourceState, *DestinationState]


def answered(state: str = "", in_doubt: bool = False) -> Problem:
    return Problem(detail="no", state=state, in_doubt=in_doubt)


@pytest.mark.parametrize(
    ("problem", "may_have_moved", "status"),
    [
        # nobody answers
        (None, False, ExitStatus.NOT_DONE),
        (None, True, ExitStatus.IN_DOUBT),
        # the agent refuses before it begins a handover
        (answered(), False, ExitStatus.NOT_DONE),
        # it does not know the handover of which a commit was asked for
        (answered(), True, ExitStatus.IN_DOUBT),
        # the journal is full, the destination is the same nexus, another handover is prepared
        (answered("checking"), False, ExitStatus.NOT_DONE),
        (answered("reviewing"), False, ExitStatus.NOT_DONE),
        (answered("prepared"), False, ExitStatus.NOT_DONE),
        # the state says more than what was asked for
        (answered("stayed"), True, ExitStatus.NOT_DONE),
        (answered("committed"), True, ExitStatus.NOT_DONE),
        (answered("closing", in_doubt=True), True, ExitStatus.IN_DOUBT),
        (answered("committing", in_doubt=True), False, ExitStatus.IN_DOUBT),
    ],
)
def test_what_was_not_done_ends_with(
    problem: Problem | None, may_have_moved: bool, status: ExitStatus
) -> None:
    assert exit_status(in_doubt=is_in_doubt(problem, may_have_moved=may_have_moved)) is status


@pytest.mark.parametrize("state", STATES, ids=str)
def test_the_document_says_where_the_reservations_are_in_each_state(
    state: SourceState | DestinationState,
) -> None:
    place = place_of(state)
    role = "source" if isinstance(state, SourceState) else "destination"
    status = exit_status(in_doubt=place is Place.UNKNOWN)
    row = f"| {role} | {state.value} | {place.value} | {status.value} |"
    assert row in DOCUMENT.read_text().splitlines()
