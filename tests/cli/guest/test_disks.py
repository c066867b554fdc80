"""``holdover guest attach-disk`` and ``detach-disk`` at the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.agent.hosts import GUEST, san
from tests.cli.test_host import typed


@pytest.mark.provokes("disk-stays")
def test_a_disk_goes_and_comes_at_the_command_line(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            await set_up.guest_on("host-a", 1).register()
            status, _, errors = await typed(set_up, "host-a", "guest", "detach-disk", GUEST, "1")
            assert (status, "--release" in errors, "disk-stays" in errors) == (1, True, True)
            status, out, _ = await typed(set_up, "host-a", "guest", "detach-disk", GUEST, "1", "--release")
            assert (status, "LUN 1 of its export is free" in out) == (0, True)
            device = f"scsi-block,id=disk1,drive={set_up.url(1)}"
            status, out, _ = await typed(
                set_up, "host-a", "guest", "attach-disk", GUEST, device, "--number", "3"
            )
            assert (status, "at LUN 3 of its export" in out) == (0, True)

    asyncio.run(test())
