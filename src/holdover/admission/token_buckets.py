"""How often something may be done: a few times at once, then at a steady rate. Pure; the time is given."""

from __future__ import annotations

from collections.abc import Hashable


class TokenBuckets:
    """A bucket of tokens for each key; time fills it."""

    def __init__(self, burst: int, every: float) -> None:
        """``burst``: how many times at once; ``every``: seconds from one time to the next after that."""
        self._burst = burst
        self._every = every
        self._full_at: dict[Hashable, float] = {}
        """The time at which each bucket is full again. Full buckets are not in this dictionary."""

    def take(self, key: Hashable, now: float) -> float:
        """Take a token and return 0.0. If there is none, take nothing and return the seconds until there is
        one.
        """
        full_at, wait = self._after_one(key, now)
        if not wait:
            self._full_at[key] = full_at
        return wait

    def pause(self, key: Hashable, now: float) -> float:
        """The seconds until there is a token; 0.0 if there is one. Takes nothing."""
        return self._after_one(key, now)[1]

    def reserve(self, key: Hashable, now: float, longest: float) -> float:
        """Take a token, even in advance. Returns the seconds until that token exists. If these would be
        ``longest`` or more, takes nothing and returns ``longest``.
        """
        full_at, wait = self._after_one(key, now)
        if wait < longest:
            self._full_at[key] = full_at
        return min(wait, longest)

    def charge(self, key: Hashable, now: float, tokens: int) -> None:
        """Take ``tokens`` more, of which some may not exist yet. The debt is never more than a full bucket,
        so that it ends soon after the last charge.
        """
        full_at = max(now, self._full_at.get(key, now)) + tokens * self._every
        self._full_at[key] = min(full_at, now + 2 * self._burst * self._every)

    def give_back(self, key: Hashable) -> None:
        """Put a token back that was taken for something that needs no limit."""
        if key in self._full_at:
            self._full_at[key] -= self._every

    def _after_one(self, key: Hashable, now: float) -> tuple[float, float]:
        """The time at which the bucket is full again if one more token is taken, and the seconds until that
        token exists.
        """
        # Only buckets that are not full are kept: no more than the number of tokens that were taken lately.
        for each in [each for each, full_at in self._full_at.items() if full_at <= now]:
            del self._full_at[each]
        full_at = max(now, self._full_at.get(key, now)) + self._every
        wait = full_at - now - self._burst * self._every
        # Rounding errors of large times must not withhold the last token.
        return full_at, wait if wait > self._every * 1e-6 else 0.0
