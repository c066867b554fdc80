"""An agent whose journal's disk is full: whoever looks is told that it is the journal, and which.

The disk is a small tmpfs in a mount namespace of a process of its own; where none can be had, a limit on the
size of files stands for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from holdover.agent.daemon import serve
from holdover.agent.host import Host
from holdover.api.client import AgentRefused
from holdover.config.agent_file import JournalConfig, Limits
from holdover.scsi.cdbs.opcodes import OutServiceAction
from holdover.scsi.reservation.reservation_out import out_command
from tests.agent.hosts import GUEST, San, san

LIMITS = Limits(connect=5, step=5, drain=5, peer=5, give_up=2, recheck=0.5)
IN_TMPFS = 'mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@"'


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def register_until_refused(set_up: San) -> None:
    guest = set_up.guest_on("host-a")
    key = 0
    for new in range(1, 400):
        if not (await guest.tell(out_command(OutServiceAction.REGISTER, key, new))).good:
            return
        key = new
    raise AssertionError("the disk is not full")


async def look(folder: Path, disk: Path, *, is_full: bool) -> None:
    """What the process of its own does; ``is_full``: ``disk`` is small, and can be filled."""
    journal = disk / "journal"
    async with san(folder, limits=LIMITS) as set_up:
        await set_up.stop("host-a")
        ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
        config = replace(set_up.configs["host-a"], journal=JournalConfig(file=str(journal)))
        agent = asyncio.create_task(serve(config, ready.set_result))
        set_up.hosts["host-a"] = await ready
        client = set_up.clients["host-a"]
        assert (await client.guests()).warnings == ()
        if is_full:
            fill(disk)
        else:
            limit(300_000)
        await register_until_refused(set_up)

        (warning,) = (await client.guests()).warnings
        assert str(journal) in warning
        assert "free space" in warning
        with pytest.raises(AgentRefused) as refused:
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
        assert str(journal) in str(refused.value)
        assert not refused.value.problem.in_doubt

        (disk / "filler").unlink(missing_ok=True)
        limit(resource.RLIM_INFINITY)
        told = await client.guests()
        while told.warnings:
            told = await client.guests()
        assert (await client.roll_back(GUEST, "h1")).state == "stayed"
        agent.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await agent


@pytest.mark.parametrize("is_full", [True, False], ids=["full disk", "limit"])
def test_the_journal_is_named_where_it_fails(tmp_path: Path, is_full: bool) -> None:
    disk, folder = tmp_path / "disk", tmp_path / "folder"
    disk.mkdir()
    folder.mkdir()
    command = [sys.executable, "-m", "tests.agent.test_journal_full", str(folder), str(disk)]
    if is_full:
        mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", IN_TMPFS, "sh", str(disk)]
        if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode != 0:
            pytest.skip("this user cannot mount a tmpfs in a namespace; the other case stands for it")
        command = [*mounted, *command, "full"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "was not sent" in line]
    assert lines
    assert all(str(disk / "journal") in line for line in lines)
    assert "The LUN did not answer" not in done.stdout


if __name__ == "__main__":
    asyncio.run(look(Path(sys.argv[1]), Path(sys.argv[2]), is_full=len(sys.argv) > 3))
