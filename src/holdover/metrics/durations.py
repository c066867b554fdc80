"""A histogram of durations, which costs less than a microsecond for each one that it counts."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence

COMMAND_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0)
"""For one command to a LUN, or one transaction of the journal."""

PHASE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 300.0)
"""For one phase of a handover."""


class Durations:
    """Durations in seconds, counted by size. Any thread may call the methods."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds``: the upper ends of the buckets, ascending. One more bucket has all longer durations."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        bucket = bisect_left(self._bounds, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += seconds

    @property
    def count(self) -> int:
        """How many durations were counted."""
        with self._lock:
            return sum(self._counts)

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """The buckets as Prometheus has them (upper end, how many are not longer) and the sum of all."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        ends = [*(repr(bound) for bound in self._bounds), "+Inf"]
        found, so_far = [], 0.0
        for end, count in zip(ends, counts, strict=True):
            so_far += count
            found.append((end, so_far))
        return found, total
