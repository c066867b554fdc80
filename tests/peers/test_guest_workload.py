"""The guest's `workload`, which the tests and the demonstration believe, tells when something went wrong."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from tests.rig.guest_commands import WRITE_ON, clean
from tests.rig.site import SharedSite, Site

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra", "busybox-static", "sg3-utils"),
    pytest.mark.xdist_group("qemu"),
]

BLOCK = 4096
FIRST = 256
BLOCKS = 64


async def written(site: Site, blocks: int) -> int:
    """Wait until so many blocks were written since the start; how many there are now."""
    writes = 0
    while writes < blocks:
        writes = int((await site.workload("report"))["writes"])
    return writes


def test_what_was_written_is_on_the_disk_with_its_checksum(shared: SharedSite) -> None:
    async def scenario(site: Site) -> None:
        await site.run(WRITE_ON)
        await written(site, 5)
        counts = await site.workload("stop")
        assert counts["state"] == "stopped"
        assert clean(counts)
        # each when it was written, and all of them at the end
        writes = int(counts["writes"])
        assert int(counts["blocks_verified"]) == writes + min(writes, BLOCKS)
        with site.target.files[0].open("rb") as disk:
            for sequence in range(max(1, writes - BLOCKS + 1), writes + 1):
                disk.seek((FIRST + sequence % BLOCKS) * BLOCK)
                block = disk.read(BLOCK)
                assert block.startswith(f"holdover seq={sequence} ".encode())
                assert hashlib.md5(block[:4032], usedforsecurity=False).hexdigest().encode() in block[4032:]

    shared.run(scenario)


def test_a_block_that_another_changed_is_a_mismatch(shared: SharedSite) -> None:
    async def scenario(site: Site) -> None:
        await site.run(WRITE_ON)
        # the block written last is the one that is written anew last
        sequence = await written(site, 5)
        with site.target.files[0].open("r+b") as disk:
            disk.seek((FIRST + sequence % BLOCKS) * BLOCK + 100)
            disk.write(b"X")
        counts = await site.workload("stop")
        assert counts["mismatches"] == "1"
        assert not clean(counts)

    shared.run(scenario)


def test_a_write_that_is_refused_is_an_error_and_is_named(shared: SharedSite) -> None:
    async def scenario(site: Site) -> None:
        await site.run(WRITE_ON)
        await written(site, 2)
        options = ["--initiator", "iqn.2026-11.org.holdover:other", "--key", "0"]
        url = site.target.url()
        assert site.rig.holdover("pr", "register", url, *options, "--new-key", "0x1").returncode == 0
        options[-1] = "0x1"
        assert site.rig.holdover("pr", "reserve", url, *options, "--type", "we").returncode == 0
        async with asyncio.timeout(600):
            while (await site.workload("report"))["write_errors"] == "0":
                pass
        assert site.rig.holdover("pr", "clear", url, *options).returncode == 0
        counts = await site.workload("stop")
        assert counts["last_error"] == "Invalid exchange"
        assert counts["mismatches"] == "0"

    shared.run(scenario)
