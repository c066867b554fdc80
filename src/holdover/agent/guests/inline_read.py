"""PERSISTENT RESERVE IN in the helper's own threads, outside the event loop.

The loop handles the first such command of each disk. It finds out which process sent the command and which
device the disk is, and stores that with the process (`Process.ways`). From then on a thread of the helper
carries out such a command itself, as long as all of these are true:

- the connection belongs to that process: it began while the process ran, and before the loop last handled a
  connection of that process;
- the device's path has the disk open. A device number means the same device as long as somebody has it open,
  so the client's descriptor leads to the same device;
- the gate is open, and no unit attention waits for the guest.

A thread counts itself in before it looks at the gate, and the loop shuts the gate before it looks at the
count (`GuestDevice.drain`). So at least one of them sees the other. The thread counts itself out when the
loop has learned what the response tells. Most responses tell nothing new (`ScsiBlock.observe_unchanged`), and
then the thread does not wait for the loop. Every other command goes through the loop, so that one place
handles all special cases.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Protocol, runtime_checkable


@runtime_checkable
class HasOpen(Protocol):
    """A path that knows which disk it has open."""

    def has_open(self, number: tuple[int, int]) -> bool:
        """Whether the path has the disk of this type and number open now. Any thread may call this."""
        ...


class InlineReads:
    """The count of one device's commands that are under way outside the event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def under_way(self) -> int:
        """How many such commands are under way now."""
        with self._lock:
            return self._under_way

    def enter(self) -> None:
        """Count one command in; it may still find that it must not run. Any thread may call this."""
        with self._lock:
            self._under_way += 1

    def leave(self) -> None:
        """Count one command out. Any thread may call this."""
        with self._lock:
            self._under_way -= 1
            if self._under_way or not self._waiting:
                return
            waiting, self._waiting = self._waiting, []
        for loop, ended in waiting:
            # A closed loop has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_tell, ended)

    async def ended(self) -> None:
        """Wait until no such command is under way."""
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
