"""What the connections of an event loop have to send, until they send it.

What several commands have to say goes in one write. While a connection takes received bytes, others may get
something to send by it: a gateway passes on what it receives. They send it as soon as those bytes are taken,
and not in a later turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary


class PendingFlushes:
    """The connections of one loop that have something to send."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: list[Callable[[], None]] = []
        self._receiving = False

    def add(self, flush: Callable[[], None]) -> None:
        """Call ``flush`` soon. The caller adds itself once, until it is called."""
        self._pending.append(flush)
        if not self._receiving and len(self._pending) == 1:
            self._loop.call_soon(self._run)

    def receiving(self) -> None:
        """Note that a connection begins to take received bytes. Afterwards it calls `received`."""
        self._receiving = True

    def received(self, flush: Callable[[], None]) -> None:
        """Flush the connection that has taken received bytes, and all others after it."""
        self._receiving = False
        self._pending.insert(0, flush)
        self._run()

    def _run(self) -> None:
        """Flush all. If one of them raises an error, the others are flushed in the next turn of the loop."""
        pending, self._pending = self._pending, []
        left = iter(pending)
        try:
            for flush in left:
                flush()
        finally:
            for flush in left:
                self.add(flush)


_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, PendingFlushes] = WeakKeyDictionary()


def pending_flushes(loop: asyncio.AbstractEventLoop) -> PendingFlushes:
    """The flushes of ``loop``. Call this only in that loop."""
    flushes = _BY_LOOP.get(loop)
    if flushes is None:
        flushes = _BY_LOOP[loop] = PendingFlushes(loop)
    return flushes
