"""A topic of the runbook."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of refusal or alarm.

    Attributes:
        name: What `holdover explain` takes: "one-nexus".
        seen: What an operator sees, in a few words.
        why: Why it happens, and what is true meanwhile.
        steps: What to do, one sentence each, with the commands.
        messages: Patterns of the messages that belong here, each for a part of a message.
    """

    name: str
    seen: str
    why: str
    steps: tuple[str, ...]
    messages: tuple[str, ...]

    def has(self, message: str) -> bool:
        """Whether a message belongs here."""
        return any(re.search(pattern, message, re.IGNORECASE) for pattern in self.messages)
