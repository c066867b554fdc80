"""Clients of a helper's socket that break the protocol in every way, and one that keeps to it meanwhile."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from holdover.helper.server import HelperServer
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from tests.helper.client import HelperClient, Reply

SILENT = 40
"""How many clients at most fall silent in the middle: each stays until it is thrown out."""

_PATIENCE = 600.0
_AT_ONCE = 50


class Nasty:
    """One client after the other, each drawn from `random`.

    Attributes:
        cases: How many requests there were, or what should have become one.
        answers: How often each status came back.
    """

    def __init__(self, path: Path, folder: Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.cases = 0
        self.answers: dict[int, int] = {}
        self.silent: list[HelperClient] = []
        file = folder / f"file{seed}"
        self._left = [
            os.open(file, os.O_RDWR | os.O_CREAT),
            os.open(file, os.O_RDONLY),
            os.open(folder, os.O_RDONLY),
            os.open(file, os.O_PATH),
            os.open("/dev/null", os.O_RDWR),
            *os.pipe(),
            *(each.detach() for each in socket.socketpair()),
            os.eventfd(0),
            os.memfd_create("fuzz"),
        ]

    def close(self) -> None:
        """Hang up, and close what was sent around."""
        for descriptor in self._left:
            os.close(descriptor)
        for one in self.silent:
            one.close()

    def run(self, cases: int) -> None:
        """So many cases more."""
        end = self.cases + cases
        while self.cases < end:
            self._client()

    def _client(self) -> None:
        one = HelperClient(self.path, greet=False, timeout=_PATIENCE)
        try:
            keep = self._attack(one)
        except OSError:
            keep = False  # disconnected, as it should be
        if keep and len(self.silent) < SILENT:
            self.silent.append(one)
        else:
            one.close()

    def _attack(self, one: HelperClient) -> bool:
        """Some requests; whether the client is to stay and say nothing more."""
        draw = self.random
        self.cases += 1
        assert one.socket.recv(4) == bytes(4)
        features = draw.choice([bytes(4)] * 9 + [draw.randbytes(4)])
        one.send(features, [self._descriptor(one)] if draw.random() < 0.02 else ())
        for number in range(draw.randint(1, 6)):
            self.cases += number > 0
            cdb, data = self._request()
            count = draw.choice([1] * 12 + [0, 2, 3, 100])
            descriptors = [self._descriptor(one) for _ in range(count)]
            cut = draw.choice([16] * 8 + [draw.randint(2, 15)])
            early = draw.choice([0] * 4 + [draw.randint(1, cut - 1)])
            if early:
                one.send(cdb[:early])
            one.send(cdb[early:cut], descriptors)
            if cut < 16:
                return draw.random() < 0.5
            if data:
                one.send(data, [self._descriptor(one)] if draw.random() < 0.05 else ())
            if draw.random() < 0.05:
                one.socket.shutdown(draw.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
            if draw.random() < 0.7:
                # an answer is waited for where one is due, and looked for elsewhere
                due = count == 1 and cdb[0] == 0x5E and cdb[7:9] <= b"\x20\x00"
                one.socket.settimeout(_PATIENCE if due else 0.001)
                with contextlib.suppress(TimeoutError):
                    self._count(one.reply())
        return False

    def _count(self, reply: Reply) -> None:
        self.answers[reply.status] = self.answers.get(reply.status, 0) + 1

    def _request(self) -> tuple[bytes, bytes]:
        draw = self.random
        length = draw.choice([0, 1, 7, 8, 24, 24, 28, 200, 8192, 8193, 65535])
        kind = draw.random()
        if kind < 0.4:
            return PersistentReserveIn(draw.randrange(32), length).encode().ljust(16, b"\0"), b""
        if kind < 0.85:
            cdb = PersistentReserveOut(draw.randrange(32), length).encode().ljust(16, b"\0")
            return cdb, draw.randbytes(max(0, length + draw.choice([0] * 6 + [-1, 1, -length, 16])))
        return draw.randbytes(16), draw.randbytes(draw.randrange(40))

    def _descriptor(self, one: HelperClient) -> int:
        """Anything but a SCSI device; the connection itself is among them."""
        if self.random.random() < 0.1:
            return one.socket.fileno()
        return self.random.choice(self._left)


class Good:
    """A client that keeps to the protocol, for as long as the others do not.

    Attributes:
        served: How many of its commands were answered as they should.
    """

    def __init__(self, path: Path, work: Callable[[HelperClient, int], None]) -> None:
        """``work`` is some commands of it and what it expects; it is given their number."""
        self.served = 0
        self._path = path
        self._work = work
        self._stop = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with HelperClient(self._path, timeout=_PATIENCE) as one:
                while not self._stop.wait(0.002):
                    self._work(one, self.served)
                    self.served += 1
        except BaseException as error:
            self._problem = error

    def await_more_than(self, served: int) -> None:
        """Wait until it has been served more often than that."""
        deadline = time.monotonic() + _PATIENCE
        while self.served <= served and self._problem is None:
            assert time.monotonic() < deadline, "the good client is not served"
            time.sleep(0.001)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """While this lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
        if self._problem is not None:
            raise self._problem


def besiege(path: Path, folder: Path, seed: int, cases: int, good: Good) -> Nasty:
    """Run cases while a good client is at work; gives the nasty one, with its silent clients still there."""
    nasty = Nasty(path, folder, seed)
    with good.at_work():
        while nasty.cases < cases:
            before = good.served
            nasty.run(min(_AT_ONCE, cases - nasty.cases))
            good.await_more_than(before)
    return nasty


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log: of thousands of clients that break the protocol each would write a line."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(wrapper_class=before)


def settle(server: HelperServer, nasty: Nasty) -> None:
    """Wait until the server has thrown out the silent ones, who do not hang up; nothing of them is left."""
    assert nasty.silent
    deadline = time.monotonic() + _PATIENCE
    while server.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.connections == 0
    nasty.close()
