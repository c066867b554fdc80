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
            self._loop.call_soon(self.run)

    def receiving(self) -> None:
        """Note that a connection begins to take received bytes; it calls `run` when it has taken them."""
        self._receiving = True

    def run(self) -> None:
        """Flush all."""
        self._receiving = False
        if self._pending:
            pending, self._pending = self._pending, []
            for flush in pending:
                flush()


_BY_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, PendingFlushes] = WeakKeyDictionary()


def pending_flushes(loop: asyncio.AbstractEventLoop) -> PendingFlushes:
    """The flushes of ``loop``. Call this only in that loop."""
    flushes = _BY_LOOP.get(loop)
    if flushes is None:
        flushes = _BY_LOOP[loop] = PendingFlushes(loop)
    return flushes
