"""Turns: the number of commands that one device carries out at once, and their order.

A device that hangs delays only the clients that want that device. Turns are fair among the clients of a
device: a client has no more than its share of the turns, and waiting clients are served round robin. So a
client with a thousand commands delays another client's command by one command, not by a thousand.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Queue(Generic[T]):
    """The turns of one device.

    Attributes:
        held: How many turns each client has.
        waiting: The work that waits, by client; the client that is next comes first.
    """

    held: Counter[Hashable] = field(default_factory=Counter)
    waiting: dict[Hashable, deque[T]] = field(default_factory=dict)


class Turns(Generic[T]):
    """The turns of all devices: decides which work may begin now.

    Whoever ends a turn takes over the work that is next. So work that waits needs no thread. Any thread may
    call these methods.
    """

    def __init__(self, limit: int, share: int | None = None) -> None:
        """``limit``: the turns of each device. ``share``: how many of them one client may have; None: all."""
        self._limit = limit
        self._share = limit if share is None else min(share, limit)
        self._queues: dict[Hashable, _Queue[T]] = {}
        self._lock = threading.Lock()

    def begin(self, device: Hashable, client: Hashable, waiter: T) -> bool:
        """Whether ``waiter`` may go on now. If not, a later `end` for this device returns ``waiter``."""
        with self._lock:
            queue = self._queues.get(device)
            if queue is None:
                queue = self._queues[device] = _Queue()
            if queue.held.total() < self._limit and queue.held[client] < self._share:
                queue.held[client] += 1
                return True
            queue.waiting.setdefault(client, deque()).append(waiter)
            return False

    def end(self, device: Hashable, client: Hashable) -> T | None:
        """End a turn of ``client``. Returns the work that gets the turn next; None if no work may begin.

        For each turn that ends, at most one piece of work can go on. Work waits for a turn or for its
        client's share, and this call frees one turn of one client.
        """
        with self._lock:
            queue = self._queues[device]
            queue.held[client] -= 1
            if not queue.held[client]:
                del queue.held[client]
            following = self._next(queue)
            if following is None and not queue.held:
                del self._queues[device]
            return following

    def _next(self, queue: _Queue[T]) -> T | None:
        for client in queue.waiting:
            if queue.held[client] < self._share:
                return _take(queue, client)
        return None


def _take(queue: _Queue[T], client: Hashable) -> T:
    """Give a turn to the oldest work of a client, and put the client behind all others."""
    waiting = queue.waiting.pop(client)
    waiter = waiting.popleft()
    if waiting:
        queue.waiting[client] = waiting
    queue.held[client] += 1
    return waiter
