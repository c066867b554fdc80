"""PERSISTENT RESERVE IN in the helper's own threads, aside of the event loop.

The loop sees to the first one of each disk. When it has found out whose process it is and which device
the disk is, it leaves that with the process (`Process.ways`), and from then on a thread of the helper's
carries out such a command itself, as long as nothing has changed:

- the connection is of that process: it began when the process ran, and before the loop last saw to one of it;
- the device's path has the disk open. A device number belongs to one device as long as somebody has that
  open, so the client's descriptor leads to the same one;
- the gate is open, and the guest is not to be told of anything first.

A thread counts itself in before it looks at the gate, and the loop shuts the gate before it looks at the
count (`GuestDevice.drain`): one of them sees the other. It counts itself out when the loop has learned what
the answer tells. What most answers tell is nothing (`ScsiBlock.glance`), and then nobody waits for the loop.
Everything else goes by the loop: there is one place that knows what to do about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Protocol, runtime_checkable

__all__ = ["Aside", "HasOpen"]


@runtime_checkable
class HasOpen(Protocol):
    """A path that knows which disk it has open."""

    def has_open(self, number: tuple[int, int]) -> bool:
        """Whether it has the disk of this type and number open now. For any thread."""
        ...


class Aside:
    """How many commands of one device are under way aside of the loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def under_way(self) -> int:
        """How many there are now."""
        with self._lock:
            return self._under_way

    def enter(self) -> None:
        """One more, which may still see that it must not be. For any thread."""
        with self._lock:
            self._under_way += 1

    def leave(self) -> None:
        """One less. For any thread."""
        with self._lock:
            self._under_way -= 1
            if self._under_way or not self._waiting:
                return
            waiting, self._waiting = self._waiting, []
        for loop, ended in waiting:
            # a loop that has gone waits for nothing
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_tell, ended)

    async def ended(self) -> None:
        """Wait until there is none."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._under_way:
                return
            ended: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, ended))
        await ended


def _tell(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
