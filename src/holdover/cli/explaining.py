"""``holdover explain``: the runbook, for one topic, for a message that was seen, or as a list."""

from __future__ import annotations

import textwrap

from holdover.cli.errors import refuse
from holdover.runbook import TOPICS, explain

_COLUMNS = 80


def show(words: str) -> None:
    """Print a topic, or all of them if there are no words."""
    if not words:
        width = max(len(topic.name) for topic in TOPICS)
        for topic in TOPICS:
            line = textwrap.fill(topic.seen, _COLUMNS - width - 2)
            print(f"{topic.name:{width}}  " + textwrap.indent(line, " " * (width + 2)).lstrip())
        return
    text = explain(words)
    if text is None:
        refuse(f"explain: nothing is known of {words!r}; `holdover explain` lists the topics")
    print("\n".join(_wrapped(line) for line in text.splitlines()))


def _wrapped(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + (3 if line.startswith("  ") else 0))
    return textwrap.fill(line, _COLUMNS, subsequent_indent=indent, break_on_hyphens=False)
