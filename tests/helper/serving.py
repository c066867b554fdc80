"""A helper server for one test, in an event loop of the test's, with clients in threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from holdover.helper.listener import listen
from holdover.helper.server import Handler, HelperServer, Peer
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status

__all__ = ["Recorder", "open_descriptors", "serving", "settled_descriptors"]


class Recorder:
    """A handler that answers GOOD and keeps what it was given."""

    def __init__(self, data_in: bytes = b"data") -> None:
        self.data_in = data_in
        self.seen: list[tuple[Peer, Command, tuple[int, int]]] = []
        self.now = self.most = 0

    async def handle(self, peer: Peer, descriptor: int, command: Command) -> Response:
        found = os.fstat(descriptor)
        self.seen.append((peer, command, (found.st_dev, found.st_ino)))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return Response(Status.GOOD, self.data_in if command.data_in_length else b"")


@contextlib.asynccontextmanager
async def serving(path: Path, handle: Handler, silence: float = 30.0) -> AsyncIterator[HelperServer]:
    """A server at `path`, closed afterwards."""
    server = HelperServer(listen(path), handle, silence)
    server.start()
    try:
        yield server
    finally:
        await server.close()


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


async def settled_descriptors(expected: int, limit: float = 10.0) -> int:
    """How many descriptors there are, once they are as many as `expected` or time is up."""

    def wait() -> int:
        deadline = time.monotonic() + limit
        while open_descriptors() != expected and time.monotonic() < deadline:
            time.sleep(0.01)
        return open_descriptors()

    return await asyncio.to_thread(wait)
