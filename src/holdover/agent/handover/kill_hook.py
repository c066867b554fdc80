"""A hook for tests: the agent ends or stops itself when it writes a certain state of a handover.

The phases of a migration are such states too; their names begin with "migration-".

``HOLDOVER_KILL_AT=STATE:N:before`` ends the agent right before it asks the journal to write STATE for the Nth
time since the agent began. With ``:after`` the agent ends when STATE is on disk and nothing has followed from
it yet. ``HOLDOVER_STOP_AT`` is the same for ``kill -STOP``: the agent goes on when it gets SIGCONT.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Self

_VARIABLES = {"HOLDOVER_KILL_AT": signal.SIGKILL, "HOLDOVER_STOP_AT": signal.SIGSTOP}


class KillHook:
    """A counter of the states that are written; without a state to wait for it does nothing."""

    def __init__(
        self,
        state: str = "",
        number: int = 0,
        side: str = "",
        number_of_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self._state = state
        self._number = number
        self._side = side
        self._signal = number_of_signal
        self._written: Counter[str] = Counter()

    @classmethod
    def from_environment(cls) -> Self:
        """The hook that the environment asks for.

        Raises:
            ValueError: A variable is neither STATE:N:before nor STATE:N:after.
        """
        variable = next((each for each in _VARIABLES if os.environ.get(each)), "")
        if not variable:
            return cls()
        text = os.environ[variable]
        state, _, rest = text.rpartition(":")[0].rpartition(":")
        side = text.rpartition(":")[2]
        if not state or not rest.isdigit() or int(rest) < 1 or side not in ("before", "after"):
            raise ValueError(f"{variable}={text}: write STATE:N:before or STATE:N:after")
        return cls(state, int(rest), side, _VARIABLES[variable])

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
            os.kill(os.getpid(), self._signal)
