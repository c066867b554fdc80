"""Runs a handler in an event loop for a server that works in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from holdover.helper.connection import Peer
from holdover.paths.sgio import OpenDevice
from holdover.scsi.command import Command, Response

AsyncHandler = Callable[[Peer, OpenDevice, Command], Coroutine[Any, Any, Response]]
"""A function that carries out one command in the event loop."""


class OnLoop:
    """Runs commands in an event loop: the one in which this object is made."""

    def __init__(self, handle: AsyncHandler) -> None:
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._under_way: set[asyncio.Task[Response]] = set()
        self._closed = False

    def handle(self, peer: Peer, device: OpenDevice, command: Command) -> Future[Response]:
        """Carry out one command. Any thread may call this; no thread has to wait for the result.

        The future is cancelled when `close` is called.
        """
        work = self._run(lambda: self._handle(peer, device, command))
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Callable[[], Coroutine[Any, Any, Response]]) -> Response:
        """Run some work and return its result. The calling thread waits, so it must not be the loop's.

        Raises:
            CancelledError: `close` was called, or the loop ended.
        """
        return asyncio.run_coroutine_threadsafe(self._run(work), self._loop).result()

    def close(self) -> None:
        """Cancel the commands that are under way, and all later ones. Call this in the loop."""
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
