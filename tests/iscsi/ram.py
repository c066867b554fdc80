"""A small device server in memory, and the commands that tests send to it."""

from __future__ import annotations

import asyncio

from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

BLOCK = 512
HOLD = Command(bytes([0xC0, 0, 0, 0, 0, 0]))
"""A command that never ends by itself."""
TEST_UNIT_READY = Command(bytes(6))

_BROKEN = 0xC1


def read(lba: int, blocks: int, room: int | None = None) -> Command:
    """READ (10), with a Data-In buffer of the right size unless `room` says another."""
    cdb = bytes([OperationCode.READ_10, 0, *lba.to_bytes(4), 0, *blocks.to_bytes(2), 0])
    return Command(cdb, data_in_length=blocks * BLOCK if room is None else room)


def write(lba: int, data: bytes) -> Command:
    """WRITE (10)."""
    blocks = len(data) // BLOCK
    return Command(bytes([OperationCode.WRITE_10, 0, *lba.to_bytes(4), 0, *blocks.to_bytes(2), 0]), data)


HOLD_READ = read(0x700, 1)
HOLD_WRITE = write(0x700, bytes(BLOCK))
"""Plain commands that do not end before the disk's `release`."""


class RamDisk:
    """Reads, writes, holds `HOLD` until it is cancelled, and notes what was done to it.

    Attributes:
        release: Set, it lets `HOLD_READ` and `HOLD_WRITE` pass.
        seen: The operation codes, in order.
    """

    def __init__(self, blocks: int = 4096) -> None:
        self.data = bytearray(blocks * BLOCK)
        self.nexuses: set[ITNexus] = set()
        self.resets = 0
        self.held = 0
        self.cancelled = 0
        self.lost: list[ITNexus] = []
        self.linger: asyncio.Event | None = None
        self.release = asyncio.Event()
        self.seen: list[int] = []

    def answer(self, command: Command) -> Response:
        """What a command comes to."""
        cdb = command.cdb
        start, blocks = int.from_bytes(cdb[2:6]) * BLOCK, int.from_bytes(cdb[7:9])
        end = start + blocks * BLOCK
        if command.opcode in (OperationCode.READ_10, OperationCode.WRITE_10) and end > len(self.data):
            out_of_range = AdditionalSense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE
            return check_condition(SenseKey.ILLEGAL_REQUEST, out_of_range)
        if command.opcode == OperationCode.READ_10:
            return Response(Status.GOOD, bytes(self.data[start:end]))
        if command.opcode == OperationCode.WRITE_10:
            self.data[start:end] = command.data_out
            return Response(Status.GOOD)
        if command.opcode == OperationCode.TEST_UNIT_READY:
            return Response(Status.GOOD)
        if command.opcode == _BROKEN:
            raise RuntimeError("the device server has a fault")
        return check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_COMMAND_OPERATION_CODE)

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        self.nexuses.add(nexus)
        self.seen.append(command.opcode)
        if command.opcode == HOLD.opcode or command.cdb[:10] in (HOLD_READ.cdb, HOLD_WRITE.cdb):
            self.held += 1
            try:
                await (asyncio.Event() if command.opcode == HOLD.opcode else self.release).wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                if self.linger is not None:
                    await self.linger.wait()
                self.held -= 1
        return self.answer(command)

    async def reset(self) -> None:
        self.resets += 1

    async def nexus_lost(self, nexus: ITNexus) -> None:
        self.lost.append(nexus)
