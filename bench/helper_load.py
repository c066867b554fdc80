"""A load of READ KEYS on a helper's socket, from one thread that does as little as it can.

The load shares the machine with the helper that it measures (a user-mode kernel has one CPU). So it also
reports how much of the time it took itself.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdover.scsi.cdbs.cdb import PersistentReserveIn
from holdover.scsi.cdbs.opcodes import InServiceAction

_ALLOCATION = 8192
_READ_KEYS = PersistentReserveIn(InServiceAction.READ_KEYS, _ALLOCATION).encode().ljust(16, b"\0")
_HEADER = 8 + 96
_LARGEST = _HEADER + _ALLOCATION
_PATIENCE = 20.0
_ATTENTIONS = 8


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run of a load.

    Attributes:
        p50: The median time from a command to its reply, in seconds.
        p99: The 99th percentile of that time, in seconds.
        per_second: The commands per second of all clients together.
        own_share: The share of the time in which the load itself used the CPU, 0 to 1.
    """

    p50: float
    p99: float
    per_second: float
    own_share: float


class Load:
    """The clients of one helper, each with one command under way at any time."""

    def __init__(self, path: Path, devices: Sequence[int], clients: int) -> None:
        """Connect ``clients`` to the socket at ``path``; they send the descriptors ``devices`` in turn."""
        self._sockets: dict[int, socket.socket] = {}
        self._rights: dict[int, list[tuple[int, int, bytes]]] = {}
        for number in range(clients):
            one = _connect(path)
            device = array.array("i", [devices[number % len(devices)]]).tobytes()
            self._sockets[one.fileno()] = one
            self._rights[one.fileno()] = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, device)]

    def greet(self) -> None:
        """Let each device report its pending unit attentions, one by one."""
        for number, one in self._sockets.items():
            for attempt in range(_ATTENTIONS):
                one.sendmsg((_READ_KEYS,), self._rights[number])
                try:
                    _read_reply(one)
                    break
                except RuntimeError:
                    if attempt == _ATTENTIONS - 1:
                        raise

    def close(self) -> None:
        """Close the connections."""
        for one in self._sockets.values():
            one.close()

    def run(self, seconds: float) -> Figures:
        """Send commands for so long, and count the replies.

        Raises:
            RuntimeError: A reply to READ KEYS is not GOOD.
        """
        before, start = os.times(), time.perf_counter()
        took = (self._alone if len(self._sockets) == 1 else self._together)(start + seconds)
        elapsed, after = time.perf_counter() - start, os.times()
        took.sort()
        own = after.user + after.system - before.user - before.system
        return Figures(
            took[len(took) // 2], took[len(took) * 99 // 100], len(took) / elapsed, min(1.0, own / elapsed)
        )

    def _alone(self, end: float) -> list[float]:
        """Run one client: it blocks in the read, so nothing has to wake it."""
        ((number, one),) = self._sockets.items()
        rights, took = self._rights[number], []
        begun = time.perf_counter()
        while begun < end:
            one.sendmsg((_READ_KEYS,), rights)
            _read_reply(one)
            now = time.perf_counter()
            took.append(now - begun)
            begun = now
        return took

    def _together(self, end: float) -> list[float]:
        took: list[float] = []
        begun: dict[int, float] = {}
        with select.epoll() as poller:
            for number, one in self._sockets.items():
                poller.register(number, select.EPOLLIN)
                begun[number] = time.perf_counter()
                one.sendmsg((_READ_KEYS,), self._rights[number])
            while begun:
                ready = poller.poll(_PATIENCE)
                if not ready:
                    raise RuntimeError(f"{len(begun)} commands have no answer after {_PATIENCE} s")
                for number, _ in ready:
                    one = self._sockets[number]
                    _read_reply(one)
                    now = time.perf_counter()
                    took.append(now - begun.pop(number))
                    if now < end:
                        begun[number] = now
                        one.sendmsg((_READ_KEYS,), self._rights[number])
        return took


def _read_reply(one: socket.socket) -> None:
    """Read one reply, with one read if the helper sends the reply in one piece.

    Raises:
        RuntimeError: The reply is not GOOD.
    """
    reply = one.recv(_LARGEST)
    while len(reply) < _HEADER or len(reply) < _HEADER + int.from_bytes(reply[4:8], "big"):
        piece = one.recv(_LARGEST)
        if not piece:
            raise RuntimeError("the helper has hung up")
        reply += piece
    if reply[:4] != bytes(4):
        raise RuntimeError(f"a reply that is not GOOD: {reply[:_HEADER].hex()}")


def _connect(path: Path) -> socket.socket:
    """A connection with the features exchanged; the helper may still be starting."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            one.connect(str(path))
            break
        except (FileNotFoundError, ConnectionRefusedError):
            one.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    one.settimeout(None)
    if one.recv(4) != bytes(4):
        raise RuntimeError("a helper that does not begin with its features")
    one.sendall(bytes(4))
    return one
