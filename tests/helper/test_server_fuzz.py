"""Thousands of clients that break the protocol in every way, beside one that keeps to it.

The handler is the stand-alone helper's, so that what is no SCSI device goes all the way to the check that
keeps SG_IO from it; the device of the good client is played by /dev/zero.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import uvloop

from holdover.helper.passthrough import Passthrough
from holdover.helper.server import Peer
from holdover.paths.sgio import SgIo
from holdover.scsi.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status
from tests.helper.client import HelperClient, Reply
from tests.helper.serving import open_descriptors, serving, settled_descriptors

CASES = 3000
"""For each seed."""

SILENT = 40
"""How many clients fall silent in the middle: each stays until it is thrown out."""

READ_KEYS = PersistentReserveIn(0, 64).encode().ljust(16, b"\0")


class Fuzz:
    """One client after the other, each drawn from `random`."""

    def __init__(self, path: Path, folder: Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.left = [
            os.open(folder / "file", os.O_RDWR | os.O_CREAT),
            os.open(folder / "file", os.O_RDONLY),
            os.open(folder, os.O_RDONLY),
            os.open(folder / "file", os.O_PATH),
            os.open("/dev/null", os.O_RDWR),
            *os.pipe(),
            *(each.detach() for each in socket.socketpair()),
            os.eventfd(0),
            os.memfd_create("fuzz"),
        ]
        self.answers: dict[int, int] = {}
        self.silent: list[HelperClient] = []

    def close(self) -> None:
        for descriptor in self.left:
            os.close(descriptor)
        for one in self.silent:
            one.close()

    def cases(self, count: int) -> None:
        for _ in range(count):
            self.case()

    def case(self) -> None:
        one = HelperClient(self.path, greet=False, timeout=20)
        try:
            keep = self.attack(one)
        except OSError:
            keep = False  # disconnected, as it should be
        if keep and len(self.silent) < SILENT:
            self.silent.append(one)
        else:
            one.close()

    def attack(self, one: HelperClient) -> bool:
        """Some requests; whether the client is to stay and say nothing more."""
        draw = self.random
        assert one.socket.recv(4) == bytes(4)
        one.send(draw.choice([bytes(4)] * 9 + [draw.randbytes(4)]))
        for _ in range(draw.randint(1, 3)):
            cdb, data = self.request()
            count = draw.choice([1] * 12 + [0, 2, 3, 100])
            descriptors = [self.descriptor(one) for _ in range(count)]
            cut = draw.choice([16] * 8 + [draw.randint(2, 15)])
            early = draw.choice([0] * 4 + [draw.randint(1, cut - 1)])
            if early:
                one.send(cdb[:early])
            one.send(cdb[early:cut], descriptors)
            if cut < 16:
                return draw.random() < 0.5
            if data:
                one.send(data, [self.descriptor(one)] if draw.random() < 0.05 else ())
            if draw.random() < 0.1:
                one.socket.shutdown(draw.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
            if draw.random() < 0.7:
                # an answer is waited for where one is due, and looked for elsewhere
                due = count == 1 and cdb[0] == 0x5E and cdb[7:9] <= b"\x20\x00"
                one.socket.settimeout(20 if due else 0.002)
                with contextlib.suppress(TimeoutError):
                    reply = one.reply()
                    self.answers[reply.status] = self.answers.get(reply.status, 0) + 1
        return False

    def request(self) -> tuple[bytes, bytes]:
        draw = self.random
        length = draw.choice([0, 1, 7, 8, 24, 28, 200, 8192, 8193, 65535])
        kind = draw.random()
        if kind < 0.4:
            return PersistentReserveIn(draw.randrange(32), min(length, 65535)).encode().ljust(16, b"\0"), b""
        if kind < 0.8:
            cdb = PersistentReserveOut(draw.randrange(32), length).encode().ljust(16, b"\0")
            return cdb, draw.randbytes(max(0, length + draw.choice([0] * 6 + [-1, 1, -length, 16])))
        return draw.randbytes(16), draw.randbytes(draw.randrange(40))

    def descriptor(self, one: HelperClient) -> int:
        """Anything but a SCSI device; the connection itself is among them."""
        if self.random.random() < 0.1:
            return one.socket.fileno()
        return self.random.choice(self.left)


class Good:
    """A client that keeps to the protocol, for as long as the others do not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stop = threading.Event()
        self.served = 0

    def run(self) -> None:
        zero = os.open("/dev/zero", os.O_RDWR)
        with HelperClient(self.path, timeout=10) as one:
            while not self.stop.wait(0.002):
                assert one.run(zero, READ_KEYS) == Reply(0, b"well", bytes(96))
                self.served += 1
        os.close(zero)


def handler(io: SgIo) -> Callable[[Peer, int, Command], asyncio.Future[Response]]:
    zero = os.stat("/dev/zero").st_rdev
    passthrough = Passthrough(io)

    async def handle(peer: Peer, descriptor: int, command: Command) -> Response:
        if os.fstat(descriptor).st_rdev == zero:
            return Response(Status.GOOD, b"well")
        return await passthrough.handle(peer, descriptor, command)

    return lambda *call: asyncio.ensure_future(handle(*call))


@pytest.fixture
def _quiet() -> Iterator[None]:
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(wrapper_class=before)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("seed", [1, 2])
def test_clients_that_break_the_protocol_harm_nobody(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "helper.sock"
    io = SgIo(4)

    async def main() -> None:
        async with serving(path, handler(io), silence=1.0) as server:
            good = Good(path)
            fuzz = Fuzz(path, tmp_path, seed)
            before = open_descriptors()
            pinging = asyncio.ensure_future(asyncio.to_thread(good.run))
            for _ in range(CASES // 100):
                await asyncio.to_thread(fuzz.cases, 100)
            good.stop.set()
            await pinging
            assert good.served > 100
            assert set(fuzz.answers) == {Status.CHECK_CONDITION}
            assert fuzz.answers[Status.CHECK_CONDITION] > CASES // 20
            assert len(fuzz.silent) == SILENT
            # the silent ones are thrown out though they do not hang up
            assert await settled_descriptors(before + SILENT) == before + SILENT
            assert server.connections == 0
            fuzz.close()

    uvloop.run(main())
    io.close()
