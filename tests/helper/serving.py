"""A helper server for one test, with a handler that keeps what it was given."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from holdover.helper.clients import Clients
from holdover.helper.connection import Peer
from holdover.helper.listener import listen
from holdover.helper.server import Handler, HelperServer
from holdover.paths.sgio import OpenDevice
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status


class Recorder:
    """A handler that answers GOOD and keeps what it was given."""

    def __init__(self, data_in: bytes = b"data") -> None:
        self.data_in = data_in
        self.seen: list[tuple[Peer, Command, tuple[int, int]]] = []
        self.now = self.most = 0
        self._lock = threading.Lock()

    def handle(self, peer: Peer, device: OpenDevice, command: Command) -> Response:
        found = os.fstat(device.descriptor)
        with self._lock:
            self.seen.append((peer, command, (found.st_dev, found.st_ino)))
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0)
        with self._lock:
            self.now -= 1
        return Response(Status.GOOD, self.data_in if command.data_in_length else b"")


@contextlib.contextmanager
def serving(
    path: Path, handle: Handler, silence: float = 30.0, turns: int = 32, linger: float = 0.05
) -> Iterator[HelperServer]:
    """A server at `path`, closed afterwards. All its clients are this process, so there is no share."""
    server = HelperServer(listen(path), handle, plenty(), silence, turns, linger, share=turns)
    server.start()
    try:
        yield server
    finally:
        server.close()


def plenty() -> Clients:
    """Places for all clients of a test."""
    most = 1 << 16
    return Clients(2 * most, process_most=most, process_burst=most)


def open_descriptors() -> int:
    """How many descriptors this process has, those that only garbage still holds not counted."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def settled_descriptors(expected: int, limit: float = 600.0) -> int:
    """How many descriptors there are, once they are as many as `expected` or time is up."""
    deadline = time.monotonic() + limit
    while open_descriptors() != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return open_descriptors()
