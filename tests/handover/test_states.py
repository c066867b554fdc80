"""The tables of a handover: complete and closed."""

from __future__ import annotations

import pytest
from pages.states_page import table_of

from holdover.handover.state_table import DESTINATION, EVENT_OF, SOURCE
from holdover.handover.states import DestinationState, Event, MessageKind, SourceState

ENDS = {"stayed", "gone", "returned", "here"}


def test_every_state_stands_in_the_table() -> None:
    assert set(SOURCE) == set(SourceState)
    assert set(DESTINATION) == set(DestinationState)
    assert set(EVENT_OF) == set(MessageKind)


@pytest.mark.parametrize("state", SourceState)
def test_a_source_goes_on_after_a_restart(state: SourceState) -> None:
    assert Event.RESTARTED in SOURCE[state].follows


@pytest.mark.parametrize("state", DestinationState)
def test_a_destination_goes_on_after_a_restart(state: DestinationState) -> None:
    assert Event.RESTARTED in DESTINATION[state].follows


@pytest.mark.parametrize("state", [each for each in SourceState if SOURCE[each].work])
def test_work_of_the_source_can_end_both_ways(state: SourceState) -> None:
    assert {Event.DONE, Event.FAILED} <= SOURCE[state].follows.keys()


@pytest.mark.parametrize("state", [each for each in SourceState if SOURCE[each].message])
def test_a_message_can_be_answered_in_every_way(state: SourceState) -> None:
    assert {Event.TOLD, Event.REFUSED, Event.UNREACHED, Event.GIVEN_UP} <= SOURCE[state].follows.keys()


@pytest.mark.parametrize("state", [each for each in DestinationState if DESTINATION[each].work])
def test_work_of_the_destination_can_end_both_ways(state: DestinationState) -> None:
    assert {Event.DONE, Event.FAILED} <= DESTINATION[state].follows.keys()


@pytest.mark.parametrize("role", [SourceState, DestinationState])
def test_an_end_can_be_reached_from_every_state(
    role: type[SourceState] | type[DestinationState],
) -> None:
    after: dict[str, set[str]] = {}
    for before, _, follows in table_of(role):
        after.setdefault(before, set()).add(follows)
    for state in role:
        seen: set[str] = set()
        ahead = {state.value}
        while ahead:
            seen |= ahead
            ahead = {each for one in ahead for each in after[one]} - seen
        assert seen & ENDS, state
