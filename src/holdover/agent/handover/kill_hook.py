"""A hook for tests: the agent ends itself, as by ``kill -9``, when it writes a certain state of a handover.

The phases of a migration are such states too; their names begin with "migration-".

``HOLDOVER_KILL_AT=STATE:N:before`` ends the agent right before it asks the journal to write STATE for the Nth
time since the agent began. With ``:after`` the agent ends when STATE is on disk and nothing has followed from
it yet.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Self

_VARIABLE = "HOLDOVER_KILL_AT"


class KillHook:
    """A counter of the states that are written; without a state to wait for it does nothing."""

    def __init__(self, state: str = "", number: int = 0, side: str = "") -> None:
        self._state = state
        self._number = number
        self._side = side
        self._written: Counter[str] = Counter()

    @classmethod
    def from_environment(cls) -> Self:
        """The hook that the environment asks for.

        Raises:
            ValueError: The variable is neither STATE:N:before nor STATE:N:after.
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
        """Count these states, which are about to be written in one transaction."""
        if not self._state:
            return
        for state in states:
            self._written[state] += 1
            if self._side == "before":
                self._strike(state)

    def after(self, states: Sequence[str]) -> None:
        """Check these states, which are on disk now."""
        if self._side == "after":
            for state in states:
                self._strike(state)

    def _strike(self, state: str) -> None:
        if state == self._state and self._written[state] == self._number:
            os.kill(os.getpid(), signal.SIGKILL)
