"""A stand-in for the guest: it holds a reservation, writes blocks with checksums and reads them back.

Run it as ``python -m holdover.demo.workload``. It reads orders from standard input, reports on standard
output, and writes without pause. Like a guest, it knows one disk, and does not know on which host it is: the
order *connect* says where its QEMU finds that disk.
"""

from __future__ import annotations

import asyncio
import time

from holdover.demo.blocks import BLOCK, block, check
from holdover.demo.messages import Connect, End, OpenDisk, Order, Ready, Report
from holdover.demo.writer import Counter, orders, say
from holdover.iscsi.url import parse_iscsi_url
from holdover.paths.iscsi import InitiatorIdentity, IscsiPath, IscsiSessions, isid_of
from holdover.reservations.driver import run_async
from holdover.reservations.steps import past_attentions
from holdover.scsi.cdbs.cdb import Read, TestUnitReady, Write
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import describe_response

KEY = 0x484F4C44
BLOCKS = 256
_LOGICAL = BLOCK // 512


class Workload:
    """One disk, one write in flight, and the content that must be on the disk."""

    def __init__(self) -> None:
        self._sessions = IscsiSessions()
        self._path: IscsiPath | None = None
        self._opened: dict[str, IscsiPath] = {}
        self._sequence = 0
        self._written: dict[int, int] = {}
        self._damaged = 0
        self._counter = Counter("guest")

    async def open(self, url: str) -> None:
        """Log in at ``url`` and check that a disk is there; change nothing on it."""
        identity = InitiatorIdentity("iqn.2026-11.org.holdover:demo-guest", isid_of("demo"))
        path = self._opened[url] = self._sessions.path(parse_iscsi_url(url), identity)
        await path.execute(Command(TestUnitReady().encode()))

    async def connect(self, url: str) -> None:
        """Continue on the disk at ``url``; the first time also register and reserve there."""
        first = self._path is None
        if url not in self._opened:
            await self.open(url)
        self._path = self._opened[url]
        if first:
            await self._must(out_command(OutServiceAction.REGISTER, 0, KEY, aptpl=True))
            kind = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
            await self._must(out_command(OutServiceAction.RESERVE, KEY, type=kind))

    async def _execute(self, command: Command) -> Response:
        if self._path is None:
            raise RuntimeError("no disk is connected")
        return await run_async(past_attentions(command, "the workload"), self._path.execute)

    async def _must(self, command: Command) -> None:
        response = await self._execute(command)
        if not response.good:
            raise RuntimeError(f"the workload could not begin: {describe_response(response)}")

    async def write(self) -> None:
        """Write the next block and read it back."""
        self._sequence += 1
        address = self._sequence % BLOCKS
        cdb = Write(address * _LOGICAL, _LOGICAL, 10).encode()
        response = await self._execute(Command(cdb, block(self._sequence, address)))
        self._counter.count(response)
        if response.good:
            self._written[address] = self._sequence
            if await self._read(address) != self._sequence:
                self._damaged += 1

    async def _read(self, address: int) -> int | None:
        cdb = Read(address * _LOGICAL, _LOGICAL, 10).encode()
        response = await self._execute(Command(cdb, data_in_length=BLOCK))
        return check(response.data_in, address) if response.good else None

    async def first_write(self) -> Ready:
        """Do the first write after a pause; return when it ended."""
        await self.write()
        return Ready(time.monotonic())

    def pause(self) -> Ready:
        """Stand still; nothing is in flight."""
        self._counter.tick()
        return Ready(time.monotonic())

    async def verify(self) -> Report:
        """Read every block that was written, and compare it with the content that was acknowledged last."""
        self._counter.tick()
        verified = 0
        for address, sequence in self._written.items():
            if await self._read(address) == sequence:
                verified += 1
            else:
                self._damaged += 1
        counter = self._counter
        return Report("guest", counter.accepted, counter.refused, verified, self._damaged)


async def run() -> None:
    """Follow the orders until *end*; between them write, unless the order is to stand still."""
    workload = Workload()
    async with orders() as queue:
        await _follow(workload, queue)
    say(await workload.verify())


async def _follow(workload: Workload, queue: asyncio.Queue[Order]) -> None:
    writing = False
    while True:
        if writing and queue.empty():
            await workload.write()
            continue
        order = await queue.get()
        if isinstance(order, End):
            return
        if isinstance(order, OpenDisk):
            await workload.open(order.url)
        elif isinstance(order, Connect):
            await workload.connect(order.url)
            say(await workload.first_write())
            writing = True
        else:
            writing = False
            say(workload.pause())


if __name__ == "__main__":
    asyncio.run(run())
