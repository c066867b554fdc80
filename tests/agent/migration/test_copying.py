"""How the copy of a guest's memory is watched."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from holdover.agent.migration.copying import copy_memory
from holdover.api.migration_documents import Memory, MigrationOptions
from holdover.qemu.monitor import QemuRefused
from holdover.qemu.outgoing import CopyProgress, OutgoingQemu


class BusyGuest(OutgoingQemu):
    """A guest that writes faster than its memory is copied, and a QEMU that does not switch over."""

    def __init__(self) -> None:
        self.asked = 0

    async def progress(self) -> CopyProgress:
        ram = {"transferred": 1, "remaining": 1, "total": 2, "dirty-sync-count": 5}
        return msgspec.convert({"status": "active", "ram": ram}, CopyProgress)

    async def wait_stopped(self) -> CopyProgress:
        never: asyncio.Future[CopyProgress] = asyncio.get_running_loop().create_future()
        return await never

    async def start_postcopy(self) -> None:
        self.asked += 1
        raise QemuRefused("postcopy is not enabled")


def test_a_postcopy_that_qemu_refuses_is_told() -> None:
    async def test() -> None:
        source, noted = BusyGuest(), list[Memory]()
        async with asyncio.timeout(600):
            with pytest.raises(QemuRefused, match="postcopy is not enabled"):
                await copy_memory(source, MigrationOptions(postcopy=True), noted.append)
        assert source.asked == 1
        assert noted

    asyncio.run(test())
