"""What is on record of libvirt's guests, and what the kernel shows of their QEMUs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from holdover.agent.libvirt.memory import GuestMemories, GuestMemory
from holdover.agent.libvirt.qemu import is_incoming, runs_somewhere


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        file = tmp_path / "state" / "libvirt.json"
        memory = GuestMemories(file)
        memory.of("db1").granted = "h1"
        await asyncio.gather(memory.save(), memory.save())
        assert GuestMemories(file).guests == {"db1": GuestMemory(granted="h1")}
        assert file.stat().st_mode & 0o777 == 0o600
        assert [each.name for each in file.parent.iterdir()] == ["libvirt.json"]

    asyncio.run(test())


def test_a_file_that_cannot_be_read_is_no_guest(tmp_path: Path) -> None:
    file = tmp_path / "libvirt.json"
    file.write_bytes(b'{"db1": ')
    assert GuestMemories(file).guests == {}


def test_a_process_that_is_no_qemu_is_no_guest() -> None:
    assert not is_incoming(os.getpid())
    assert not runs_somewhere("no such guest", "")
