"""Turns: at most so many at once for each device, the rest in order behind them, and no thread that waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Turns"]

T = TypeVar("T")


@dataclass(slots=True)
class _Queue(Generic[T]):
    under_way: int = 0
    waiting: deque[T] = field(default_factory=deque)


class Turns(Generic[T]):
    """Who may go on now, by device. A device that hangs holds up nobody but those who want it.

    Whoever ends a turn takes over the one who has waited longest, so none of those who wait needs a thread.
    For any threads.
    """

    def __init__(self, limit: int) -> None:
        """``limit``: how many turns at once for each device."""
        self._limit = limit
        self._queues: dict[Hashable, _Queue[T]] = {}
        self._lock = threading.Lock()

    def begin(self, device: Hashable, who: T) -> bool:
        """Whether ``who`` may go on now; if not, it is what some `end` for this device will return."""
        with self._lock:
            queue = self._queues.get(device)
            if queue is None:
                queue = self._queues[device] = _Queue()
            if queue.under_way < self._limit:
                queue.under_way += 1
                return True
            queue.waiting.append(who)
            return False

    def end(self, device: Hashable) -> T | None:
        """End a turn that `begin` gave; returns who has it next, None where nobody waits."""
        with self._lock:
            queue = self._queues[device]
            if queue.waiting:
                return queue.waiting.popleft()
            queue.under_way -= 1
            if queue.under_way == 0:
                del self._queues[device]
            return None
