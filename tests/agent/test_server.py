"""The API over HTTP: what is asked for wrongly is answered with a problem that says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from holdover.agent.client import AgentClient, AgentError, AgentRefused
from tests.agent.hosts import GUEST, san
from tests.rig.processes import free_port


def test_problems_are_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            san(tmp_path) as set_up,
            aiohttp.ClientSession(f"http://{set_up.apis['host-a']}") as http,
        ):
            client = set_up.clients["host-a"]
            with pytest.raises(AgentRefused, match="host-a has no guest 'nobody'; it has: db1"):
                await client.guest("nobody")
            with pytest.raises(AgentRefused, match="h is not under way on host-a") as refused:
                await client.commit(GUEST, "h")
            assert not refused.value.problem.in_doubt
            with pytest.raises(AgentRefused, match="guest db1 has not been handed over from or to host-a"):
                await client.handover(GUEST)
            assert (await http.get("/nothing")).status == 404
            for body in (b"", b"{}", b"\xff", b'{"handover":"h","alone":"no"}'):
                answer = await http.post(f"/guests/{GUEST}/handover/commit", data=body)
                assert answer.status == 400, await answer.text()
                assert (await answer.json())["host"] == "host-a"
            jump = await http.post(f"/guests/{GUEST}/handover/jump", json={"handover": "h"})
            assert jump.status in (400, 404)
            assert (await client.guest(GUEST)).devices[0].gate == "running"

    asyncio.run(test())


def test_an_agent_that_is_not_there_is_named() -> None:
    async def test() -> None:
        port = free_port()
        client = AgentClient(f"127.0.0.1:{port}")
        with pytest.raises(AgentError, match=f"agent at 127.0.0.1:{port}: .*is it running"):
            await client.guests()
        await client.close()

    asyncio.run(test())
