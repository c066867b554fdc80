"""``holdover host`` and ``holdover guest list|show|release|forget``, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.agent.hosts import GUEST, KEY, San, san
from tests.agent.placement.test_cold_start import shut_down


async def typed(set_up: San, host: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command that asks the agent of a host."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "holdover",
        *arguments,
        "--at",
        set_up.clients[host].api,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    return process.returncode or 0, out.decode(), errors.decode()


@pytest.mark.provokes("dead-host")
def test_a_dead_host_and_its_guest_at_the_command_line(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.guest_on("host-a").register()
            status, out, _ = await typed(set_up, "host-a", "guest", "list")
            assert status == 0
            assert [GUEST, "host-a", "here", "1", hex(KEY)] == out.splitlines()[1].split()[:5]
            status, _, errors = await typed(set_up, "host-a", "guest", "release", GUEST)
            assert (status, "nothing was changed" in errors) == (2, True)
            status, _, errors = await typed(set_up, "host-a", "guest", "forget", GUEST)
            assert (status, "agent's file" in errors) == (1, True)
            await shut_down(set_up, "host-a")
            await set_up.stop("host-a")
            declared = ("host", "declare-dead", "host-a", "--why", "power is off")
            status, out, _ = await typed(set_up, "host-b", *declared)
            assert status == 0
            assert "host-a is declared dead by" in out
            assert "power is off" in out
            status, out, _ = await typed(set_up, "host-b", "guest", "start", GUEST)
            assert (status, "was taken from host-a" in out) == (0, True)
            status, out, _ = await typed(set_up, "host-b", "guest", "show", GUEST, "--json")
            assert json.loads(out)[0]["devices"][0]["key"] == hex(KEY)
            status, out, _ = await typed(set_up, "host-b", "guest", "release", GUEST, "--yes")
            assert (status, "not on host-b any more" in out) == (0, True)
            assert await set_up.registrants() == {}
            status, out, _ = await typed(set_up, "host-b", "host", "declare-alive", "host-a")
            assert (status, "declared dead" in out) == (0, False)
            status, out, _ = await typed(set_up, "host-b", "host", "list", "--json")
            assert [(each["name"], each["answers"]) for each in json.loads(out)["hosts"]] == [
                ("host-a", False)
            ]
            status, _, errors = await typed(set_up, "host-b", "guest", "show", "nobody")
            assert (status, "there is no guest 'nobody' on host-b" in errors) == (1, True)

    asyncio.run(test())
