"""What an operator's request means for a handover: the events that it consists of, one after the other, and
the state that it wants. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from holdover.handover.protocol import Destination, Source
from holdover.handover.states import DestinationState, Event, SourceState


@dataclass(frozen=True, slots=True)
class Request:
    """One step of an operator's request.

    Attributes:
        event: What the handover is asked for.
        wanted: The state in which the step has been done.
    """

    event: Event
    wanted: SourceState | DestinationState


WANTED_OF_SOURCE: Mapping[Event, SourceState] = MappingProxyType(
    {
        Event.ASKED_COMMIT: SourceState.COMMITTED,
        Event.ASKED_ROLL_BACK: SourceState.STAYED,
        Event.ASKED_ALONE: SourceState.STAYED,
        Event.ASKED_FINISH: SourceState.GONE,
    }
)
"""What the source can be asked for, and the state that each request wants."""

WANTED_OF_DESTINATION: Mapping[Event, DestinationState] = MappingProxyType(
    {
        Event.ASKED_TAKE: DestinationState.TAKEN,
        Event.ASKED_FINISH: DestinationState.HERE,
        Event.ASKED_ALONE: DestinationState.RETURNED,
    }
)
"""What the destination can be asked for without the source, and the state that each request wants."""


_STILL_TAKES = frozenset({DestinationState.TAKING, DestinationState.INTERRUPTED, DestinationState.REASSURING})


def next_of_source(source: Source, asked: Event) -> Request:
    """The next step of a request to the source. After it, the request is done if the source is in the state
    that the request wants, or if the step was the request itself.

    A roll back without the destination begins as a usual one: if the destination answers after all, it gives
    everything back itself.
    """
    wanted = WANTED_OF_SOURCE[asked]
    if asked is Event.ASKED_ALONE and source.state is not wanted and not source.rolls_back:
        return Request(Event.ASKED_ROLL_BACK, wanted)
    return Request(asked, wanted)


def steps_of_destination(destination: Destination, asked: Event) -> tuple[Request, ...]:
    """The steps of a request to the destination.

    To finish while everything is still being taken means that the source never comes back: what is left to
    take is taken first.
    """
    request = Request(asked, WANTED_OF_DESTINATION[asked])
    if asked is Event.ASKED_FINISH and destination.state in _STILL_TAKES:
        return Request(asked, DestinationState.TAKEN), request
    return (request,)
