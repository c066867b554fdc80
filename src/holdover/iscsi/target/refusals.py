"""Logs which initiators a target refuses, with a limited number of lines."""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger("holdover.iscsi.target.target")

_QUIET_SECONDS = 10.0


class LoginRefusals:
    """The refusals of one target.

    Args:
        target: The name of the target.
        clock: Returns seconds, for the time between two lines.
    """

    def __init__(self, target: str, clock: Callable[[], float]) -> None:
        self._target = target
        self._clock = clock
        self._quiet_until = 0.0
        self._untold = 0

    def tell(self, peer: str, problem: str) -> None:
        """Write a line to the log, or count a refusal for which no line is written."""
        now = self._clock()
        if now < self._quiet_until:
            self._untold += 1
            return
        self._quiet_until = now + _QUIET_SECONDS
        more = f" ({self._untold} more were refused since the last such line)" if self._untold else ""
        self._untold = 0
        # The problem may contain any text that an initiator sent.
        _log.warning(
            "target %s refuses %s: %s%s", self._target, peer, problem.encode("unicode_escape").decode(), more
        )
