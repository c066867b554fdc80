"""A handler that lives in an event loop, for a server that lives in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from holdover.helper.connection import Peer
from holdover.paths.sgio import OpenDevice
from holdover.scsi.command import Command, Response

__all__ = ["AsyncHandler", "OnLoop"]

AsyncHandler = Callable[[Peer, OpenDevice, Command], Coroutine[Any, Any, Response]]
"""As `holdover.helper.server.Handler`, as a coroutine."""


class OnLoop:
    """Has commands carried out in the event loop that runs where this is made."""

    def __init__(self, handle: AsyncHandler) -> None:
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._under_way: set[asyncio.Task[Response]] = set()
        self._closed = False

    def handle(self, peer: Peer, device: OpenDevice, command: Command) -> Response:
        """Carry out one command; the calling thread waits, so it must not be the loop's.

        Raises:
            CancelledError: `close` was called, or the loop ends.
        """
        return self.run(lambda: self._handle(peer, device, command))

    def run(self, work: Callable[[], Coroutine[Any, Any, Response]]) -> Response:
        """Have some work done for a command; as `handle`."""
        return asyncio.run_coroutine_threadsafe(self._run(work), self._loop).result()

    def close(self) -> None:
        """Give up the commands under way, and whatever comes after; to be called in the loop."""
        self._closed = True
        for task in self._under_way:
            task.cancel()

    async def _run(self, work: Callable[[], Coroutine[Any, Any, Response]]) -> Response:
        if self._closed:
            raise asyncio.CancelledError
        task = asyncio.ensure_future(work())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await task
