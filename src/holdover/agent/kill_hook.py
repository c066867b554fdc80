"""A hook for tests: an agent that ends itself, as by ``kill -9``, when a handover's state is written.

``HOLDOVER_KILL_AT=STATE:N:before`` ends it right before the journal is asked to write that state for the Nth
time since the agent began, ``:after`` when it is on disk and nothing has followed from it yet.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Self

__all__ = ["KillHook"]

_VARIABLE = "HOLDOVER_KILL_AT"


class KillHook:
    """Counts what is written; without a state it does nothing."""

    def __init__(self, state: str = "", number: int = 0, side: str = "") -> None:
        self._state = state
        self._number = number
        self._side = side
        self._written: Counter[str] = Counter()

    @classmethod
    def from_environment(cls) -> Self:
        """As the environment says.

        Raises:
            ValueError: It says something else than STATE:N:before or STATE:N:after.
        """
        text = os.environ.get(_VARIABLE)
        if not text:
            return cls()
        state, _, rest = text.rpartition(":")[0].rpartition(":")
        side = text.rpartition(":")[2]
        if not state or not rest.isdigit() or int(rest) < 1 or side not in ("before", "after"):
            raise ValueError(f"{_VARIABLE}={text}: write STATE:N:before or STATE:N:after")
        return cls(state, int(rest), side)

    def before(self, states: Sequence[str]) -> None:
        """These states are about to be written, together."""
        if not self._state:
            return
        for state in states:
            self._written[state] += 1
            if self._side == "before":
                self._strike(state)

    def after(self, states: Sequence[str]) -> None:
        """They are on disk."""
        if self._side == "after":
            for state in states:
                self._strike(state)

    def _strike(self, state: str) -> None:
        if state == self._state and self._written[state] == self._number:
            os.kill(os.getpid(), signal.SIGKILL)
