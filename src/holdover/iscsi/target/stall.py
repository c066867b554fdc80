"""Finds a transfer that makes no progress for too long; pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


class StallWatch:
    """Compares the progress of transfers with their earlier progress.

    Args:
        limit: The most seconds without progress of a transfer.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._since: dict[Hashable, float] = {}

    def stalled(self, transfers: Iterable[Hashable], now: float) -> bool:
        """Whether one of these transfers, each with its progress, is as it was ``limit`` seconds ago."""
        self._since = {each: self._since.get(each, now) for each in transfers}
        return any(now - since >= self._limit for since in self._since.values())
