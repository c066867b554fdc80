"""What operators' requests mean for a handover: each step is an event that its state knows, or is refused by
the rules themselves."""

from __future__ import annotations

import pytest

from holdover.handover.protocol import Destination, Source
from holdover.handover.requests import (
    WANTED_OF_DESTINATION,
    WANTED_OF_SOURCE,
    Request,
    next_of_source,
    steps_of_destination,
)
from holdover.handover.state_table import DESTINATION, SOURCE
from holdover.handover.states import DestinationState, Event, SourceState


def source(state: SourceState, reason: str = "") -> Source:
    return Source("h1", "db1", "host-b", state, (), reason=reason)


def destination(state: DestinationState) -> Destination:
    return Destination("h1", "db1", "host-a", state, ())


@pytest.mark.parametrize("state", SourceState)
@pytest.mark.parametrize("asked", WANTED_OF_SOURCE)
def test_only_a_roll_back_without_the_destination_has_a_step_before_it(
    state: SourceState, asked: Event
) -> None:
    wanted = WANTED_OF_SOURCE[asked]
    begins_otherwise = asked is Event.ASKED_ALONE and state is not SourceState.STAYED
    first = Event.ASKED_ROLL_BACK if begins_otherwise else asked
    assert next_of_source(source(state), asked) == Request(first, wanted)
    assert next_of_source(source(state, "it was asked for"), asked) == Request(asked, wanted)


@pytest.mark.parametrize("state", DestinationState)
@pytest.mark.parametrize("asked", WANTED_OF_DESTINATION)
def test_only_what_is_still_being_taken_is_taken_before_it_is_finished(
    state: DestinationState, asked: Event
) -> None:
    steps = steps_of_destination(destination(state), asked)
    assert steps[-1] == Request(asked, WANTED_OF_DESTINATION[asked])
    before = steps[:-1]
    if asked is Event.ASKED_FINISH and asked in DESTINATION[state].follows and not _ends_here(state):
        assert before == (Request(asked, DestinationState.TAKEN),)
    else:
        assert before == ()


def _ends_here(state: DestinationState) -> bool:
    return DESTINATION[state].follows[Event.ASKED_FINISH] is DestinationState.HERE


def test_each_request_can_be_met() -> None:
    for asked in WANTED_OF_SOURCE:
        assert any(asked in spec.follows for spec in SOURCE.values())
    for asked in WANTED_OF_DESTINATION:
        assert any(asked in spec.follows for spec in DESTINATION.values())
