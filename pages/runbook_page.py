"""The page of the runbook, made from the topics that `holdover explain` shows."""

from __future__ import annotations

from holdover.runbook import TOPICS, Topic

_HEAD = """# Runbook

Find what you see in the table, and follow the steps of its topic. A command that fails names its topic.
The log names it in the field `explain`. `holdover explain TOPIC` prints the same steps and needs no network.
`holdover explain MESSAGE` finds the topic of a message.

This page is made from the code (`make reference`). A test checks that each refusal and each alarm has a
topic.

| what you see | topic |
| --- | --- |
"""


def runbook_page() -> str:
    """The whole page."""
    index = "".join(f"| {topic.seen} | [{topic.name}](#{topic.name}) |\n" for topic in TOPICS)
    return _HEAD + index + "".join(_part(topic) for topic in TOPICS)


def _part(topic: Topic) -> str:
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(topic.steps, 1))
    return f"\n## {topic.name}\n\n**{topic.seen}** {topic.why}\n\n{steps}\n"
