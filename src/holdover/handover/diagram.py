"""The state diagrams of the documentation, drawn from the tables: ``python -m holdover.handover.diagram``."""

from __future__ import annotations

from collections import defaultdict

from holdover.handover.states import (
    DESTINATION_DOES,
    SOURCE_DOES,
    DestinationState,
    Does,
    SourceState,
    table_of,
)

__all__ = ["document"]

_INTRODUCTION = """# The states of a handover

Drawn from the tables in `src/holdover/handover/states.py` by `python -m holdover.handover.diagram`; a
test compares. What a state does when it is entered stands below it: work on all LUNs at once, or, in
capitals, a message to the destination. An arrow from a state to itself is another try, or news
that change nothing.
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


def _does(role: type[SourceState] | type[DestinationState]) -> dict[str, Does]:
    if role is SourceState:
        return {state.value: does for state, does in SOURCE_DOES.items()}
    return {state.value: does for state, does in DESTINATION_DOES.items()}


def _diagram(role: type[SourceState] | type[DestinationState], first: str) -> str:
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for state, event, after in table_of(role):
        arrows[state, after].append(event)
    lines = ["stateDiagram-v2", f"    [*] --> {_name(first)}"]
    for state, does in _does(role).items():
        activity = _activity(does)
        lines.append(f"    {_name(state)} : {state}" + (f"\\n{activity}" if activity else ""))
    lines += [
        f"    {_name(state)} --> {_name(after)} : {', '.join(events)}"
        for (state, after), events in arrows.items()
    ]
    return "\n".join(lines) + "\n"


def _table(role: type[SourceState] | type[DestinationState]) -> str:
    lines = ["| state | gate | does |", "| --- | --- | --- |"]
    lines += [f"| {state} | {does.gate.value} | {_activity(does)} |" for state, does in _does(role).items()]
    return "\n".join(lines) + "\n"


def _activity(does: Does) -> str:
    if does.message is not None:
        return does.message.value.upper()
    return does.work.value if does.work is not None else ""


def _name(state: str) -> str:
    return state.replace(" ", "_")


if __name__ == "__main__":
    print(document(), end="")
