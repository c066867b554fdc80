"""The other end of a process that pretends to be QEMU (`pretend_qemu`): starts it and tells it what to do."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from holdover.scsi.command import Command, Response
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status


class Qemu:
    """A process that pretends to be QEMU."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def run(self, command: Command, disk: int = 0) -> Response:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = f"{disk} {command.cdb.hex()} {command.data_out.hex() or '-'}\n"
        self._process.stdin.write(line.encode())
        status, payload, sense = (await self._process.stdout.readline()).decode().split()
        return Response(Status(int(status)), bytes.fromhex(payload.strip("-")), bytes.fromhex(sense)[:18])

    async def say(self, command: Command, disk: int = 0) -> str:
        return describe_response(await self.run(command, disk))

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@asynccontextmanager
async def pretending(
    socket: Path, *disks: str, options: Sequence[str], user: int = 0
) -> AsyncGenerator[Qemu, None]:
    """A process with these disks open and these options of QEMU, connected to a helper's ``socket``."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.peers.pretend_qemu", str(socket)),
        *(str(len(disks)), *disks, *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PRETEND_UID": str(user)},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    qemu = Qemu(process)
    try:
        yield qemu
    finally:
        await qemu.end()
