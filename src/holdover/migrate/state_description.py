"""What a state of a handover means to people: what is true of the guest now, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass

from holdover.api.documents import HandoverState
from holdover.handover.state_table import SPECS, Place
from holdover.handover.states import DestinationState, SourceState


@dataclass(frozen=True, slots=True)
class StateDescription:
    """Where the guest's reservations are, what is true now, and what comes next.

    ``next`` is empty if nothing is left to do.
    """

    place: Place
    now: str
    next: str = ""


_COMMANDS = "holdover handover"


def place_of(state: SourceState | DestinationState) -> Place:
    """Where a guest's reservations are, by the state of its handover on one host."""
    return SPECS[type(state)][state].place


def describe_state(handover: HandoverState, api: str) -> StateDescription:
    """What the state of a handover means; ``api`` is the address of the agent that reported the state."""
    is_source = handover.role == "source"
    state = SourceState(handover.state) if is_source else DestinationState(handover.state)
    spec = SPECS[type(state)][state]
    words = {
        "guest": handover.guest,
        "host": handover.host,
        "peer": handover.peer,
        "api": api,
        "do": _COMMANDS,
    }
    return StateDescription(spec.place, spec.now.format(**words), spec.advice.format(**words))


def in_words(handover: HandoverState, api: str) -> str:
    """What the state of a handover means, as text of one or two lines with the handover's id."""
    description = describe_state(handover, api)
    text = f"Now: {description.now} (handover {handover.handover_id} is {handover.state})."
    return f"{text}\nNext: {description.next}." if description.next else text
