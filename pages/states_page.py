"""The page of the states of a handover, drawn from the tables of the rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from enum import Enum
from typing import Any

from holdover.handover.state_table import SPECS, Choice, StateSpec
from holdover.handover.states import DestinationState, Event, SourceState

_INTRODUCTION = """# The states of a handover

Guest db1 goes from host-a to host-b. Each host has a state machine of its own. `holdover handover status
db1` shows the state, and the same sentence as the tables below.

In the diagrams, the second line of a state says what begins when the state is entered: work on all LUNs
at once, or, in capitals, a message to the destination. An arrow from a state to itself is another try, or
news that changes nothing.

This page is made from `src/holdover/handover/state_table.py` (`make reference`), and a test compares the two.
"""

_ROLES: tuple[tuple[str, type[SourceState] | type[DestinationState], str], ...] = (
    ("The source, which the guest leaves", SourceState, SourceState.CHECKING.value),
    ("The destination, to which it goes", DestinationState, DestinationState.REGISTERING.value),
)


def states_page() -> str:
    """The whole page, in Markdown with diagrams in Mermaid."""
    parts = [_INTRODUCTION]
    for title, role, first in _ROLES:
        parts.append(f"## {title}\n\n```mermaid\n{_diagram(role, first)}```\n")
        parts.append(_table(role))
    return "\n".join(parts)


def _specs(role: type[SourceState] | type[DestinationState]) -> dict[str, StateSpec[Any]]:
    return {state.value: spec for state, spec in SPECS[role].items()}


def _diagram(role: type[SourceState] | type[DestinationState], first: str) -> str:
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for state, event, after in table_of(role):
        arrows[state, after].append(event)
    lines = ["stateDiagram-v2", f"    [*] --> {_name(first)}"]
    for state, spec in _specs(role).items():
        activity = _activity(spec)
        lines.append(f"    {_name(state)} : {state}" + (f"\\n{activity}" if activity else ""))
    lines += [
        f"    {_name(state)} --> {_name(after)} : {', '.join(events)}"
        for (state, after), events in arrows.items()
    ]
    return "\n".join(lines) + "\n"


def _table(role: type[SourceState] | type[DestinationState]) -> str:
    lines = ["| state | gate | does | what is true now |", "| --- | --- | --- | --- |"]
    here, there = ("host-a", "host-b") if role is SourceState else ("host-b", "host-a")
    for state, spec in _specs(role).items():
        now = spec.now.format(guest="db1", host=here, peer=there)
        lines.append(f"| {state} | {spec.gate.value} | {_activity(spec)} | {now} |")
    return "\n".join(lines) + "\n"


def _activity(spec: StateSpec[Any]) -> str:
    if spec.message is not None:
        return spec.message.value.upper()
    return spec.work.value if spec.work is not None else ""


def _name(state: str) -> str:
    return state.replace(" ", "_")


def table_of(role: type[SourceState] | type[DestinationState]) -> Iterable[tuple[str, str, str]]:
    """The transitions of one machine as (state, event with its condition, next state), for diagrams."""
    specs: Iterable[tuple[Enum, StateSpec[Any]]] = SPECS[role].items()
    for state, spec in specs:
        for event, follows in spec.follows.items():
            after, conditions = follows, tuple[str, ...]()
            while isinstance(after, Choice):
                yield state.value, _named(event, (*conditions, after.when)), after.yes.value
                conditions, after = (*conditions, f"not {after.when}"), after.no
            if after is not None:
                yield state.value, _named(event, conditions), after.value


def _named(event: Event, conditions: tuple[str, ...]) -> str:
    return f"{event.value} [{', '.join(conditions)}]" if conditions else event.value
