"""What a state means to people."""

from __future__ import annotations

import pytest

from holdover.api.documents import HandoverState
from holdover.handover.states import DestinationState, SourceState
from holdover.migrate.state_description import describe_state

STATES = [("source", each.value) for each in SourceState]
STATES += [("destination", each.value) for each in DestinationState]
ENDS = {
    ("source", SourceState.STAYED.value),
    ("source", SourceState.GONE.value),
    ("destination", DestinationState.RETURNED.value),
    ("destination", DestinationState.HERE.value),
}


@pytest.mark.parametrize(("role", "state"), STATES)
def test_every_state_says_what_is_true_and_what_comes_next(role: str, state: str) -> None:
    told = HandoverState(
        handover_id="h1",
        guest="db1",
        host="host-a",
        role=role,
        peer="host-b",
        state=state,
        open=True,
        luns=(),
    )
    meaning = describe_state(told, "127.0.0.1:7101")
    assert "db1" in meaning.now
    assert "{" not in meaning.now + meaning.next
    assert (meaning.next == "") == ((role, state) in ENDS)
