"""Limits how often a message is logged that a client can cause without end."""

from __future__ import annotations

from collections.abc import Hashable


class Seldom:
    """Counts events and decides when to report them. The caller gives the times, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = float("-inf")
        self._untold = 0

    def due(self, now: float) -> int:
        """Count one more event. Returns the number of events since the last report if a report is due now;
        else 0.
        """
        self._untold += 1
        if now < self._next:
            return 0
        self._next = now + self._seconds
        count, self._untold = self._untold, 0
        return count


class SeldomByKey:
    """The same for each of a few keys, such as reasons for a refusal. Clients must not choose the keys."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._by_key: dict[Hashable, Seldom] = {}

    def due(self, key: Hashable, now: float) -> int:
        """As `Seldom.due`, for one key."""
        return self._by_key.setdefault(key, Seldom(self._seconds)).due(now)
