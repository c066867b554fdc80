"""In which order clients begin something expensive, so that no party delays the others. Pure.

The parties take turns. Each one has a rate, and all of them together have one. What is above a rate waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from holdover.admission.token_buckets import TokenBuckets

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rates:
    """How often clients may begin: ``burst`` of them at once, and then one in ``seconds``, of all parties;
    ``burst_each`` and ``seconds_each`` are the same for one party.
    """

    burst: int
    seconds: float
    burst_each: int
    seconds_each: float


@dataclass(slots=True)
class TurnsToBegin(Generic[T]):
    """Who waits for a turn to begin, by party."""

    rates: Rates
    _waiting: OrderedDict[str, deque[T]] = field(default_factory=OrderedDict)
    """The parties in the order of their next turns."""
    _of_all: TokenBuckets = field(init=False)
    _of_each: TokenBuckets = field(init=False)

    def __post_init__(self) -> None:
        self._of_all = TokenBuckets(self.rates.burst, self.rates.seconds)
        self._of_each = TokenBuckets(self.rates.burst_each, self.rates.seconds_each)

    def add(self, party: str, client: T) -> None:
        """Let a client wait behind the others of its party."""
        self._waiting.setdefault(party, deque()).append(client)

    def remove(self, party: str, client: T) -> None:
        """Let a client wait no longer, if it waits."""
        clients = self._waiting.get(party, deque())
        if client in clients:
            clients.remove(client)
            if not clients:
                del self._waiting[party]

    def charge(self, party: str, now: float, turns: int) -> None:
        """Count ``turns`` more turns of a party: what it began was of no use to anybody."""
        self._of_each.charge(party, now, turns)

    def next(self, now: float) -> tuple[T | None, float]:
        """The client that begins now, which no longer waits. If there is none, None and the seconds until
        there may be one; 0.0 if nobody waits.
        """
        if not self._waiting:
            return None, 0.0
        pause = self._of_all.pause(None, now)
        if pause:
            return None, pause
        pauses = []
        for party in self._waiting:
            pauses.append(self._of_each.pause(party, now))
            if not pauses[-1]:
                return self._take(party, now), 0.0
        return None, min(pauses)

    def _take(self, party: str, now: float) -> T:
        self._of_each.take(party, now)
        self._of_all.take(None, now)
        clients = self._waiting.pop(party)
        client = clients.popleft()
        if clients:
            self._waiting[party] = clients  # behind the other parties
        return client
