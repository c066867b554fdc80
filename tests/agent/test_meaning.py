"""What a state means to people."""

from __future__ import annotations

import pytest

from holdover.agent.api import HandoverState
from holdover.agent.meaning import meaning_of
from holdover.handover.states import DestinationState, SourceState

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
        handover="h1", guest="db1", host="host-a", role=role, peer="host-b", state=state, open=True, luns=()
    )
    meaning = meaning_of(told, "127.0.0.1:7101")
    assert "db1" in meaning.now
    assert "{" not in meaning.now + meaning.next
    assert (meaning.next == "") == ((role, state) in ENDS)
