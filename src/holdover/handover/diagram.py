"""The state diagrams of the documentation, drawn from the tables: ``python -m holdover.handover.diagram``."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from holdover.handover.state_table import SPECS, StateSpec, table_of
from holdover.handover.states import DestinationState, SourceState

_INTRODUCTION = """# The states of a handover

Guest db1 goes from host-a to host-b. Each host has a state machine of its own. `holdover handover status
db1` shows the state, and the same sentence as the tables below.

In the diagrams, the second line of a state says what begins when the state is entered: work on all LUNs
at once, or, in capitals, a message to the destination. An arrow from a state to itself is another try, or
news that changes nothing.

`python -m holdover.handover.diagram` makes this page from `src/holdover/handover/state_table.py`, and a
test compares the two.
"""

_ROLES: tuple[tuple[str, type[SourceState] | type[DestinationState], str], ...] = (
    ("The source, which the guest leaves", SourceState, SourceState.CHECKING.value),
    ("The destination, to which it goes", DestinationState, DestinationState.REGISTERING.value),
)


def document() -> str:
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


if __name__ == "__main__":
    print(document(), end="")
