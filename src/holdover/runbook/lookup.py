"""The topic of a message, and what is shown of a topic."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from holdover.runbook.agents import AGENTS
from holdover.runbook.guests import GUESTS
from holdover.runbook.handovers import HANDOVERS
from holdover.runbook.luns import LUNS
from holdover.runbook.topic import Topic

TOPICS: tuple[Topic, ...] = (*HANDOVERS, *LUNS, *GUESTS, *AGENTS)
"""All topics. A message belongs to the first whose pattern it matches."""


def topic_of(message: str) -> Topic | None:
    """The topic of a message, if there is one: that of its first line that has one.

    Later lines say what is true now, in words that other messages have too.
    """
    for line in message.splitlines():
        found = next((topic for topic in TOPICS if topic.has(line)), None)
        if found is not None:
            return found
    return None


def explain(words: str) -> str | None:
    """The text about a topic, by its name or by a message that was seen; None if nothing is known of it."""
    topic = next((each for each in TOPICS if each.name == words), None) or topic_of(words)
    if topic is None:
        return None
    steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(topic.steps, 1))
    return f"{topic.name}: {topic.seen}\n\nWhy: {topic.why}\n\nWhat to do:\n{steps}"


def name_topic(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Give an event of the log the name of its topic (a processor of structlog)."""
    if event.get("level") in {"warning", "error", "critical"}:
        details = " ".join(
            str(event[name]) for name in ("why", "reason", "error", "problem") if name in event
        )
        found = topic_of(f"{event.get('event', '')} {details}")
        if found is not None:
            event["explain"] = found.name
    return event
