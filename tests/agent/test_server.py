"""The API over HTTP: what is asked for wrongly is answered with a problem that says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from holdover.api.client import AgentClient, AgentError, AgentRefused
from tests.agent.hosts import GUEST, san


def test_problems_are_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            san(tmp_path) as set_up,
            aiohttp.ClientSession(
                "http://localhost", connector=aiohttp.UnixConnector(str(tmp_path / "host-a.api.sock"))
            ) as http,
        ):
            client = set_up.clients["host-a"]
            nobody = "there is no guest 'nobody' on host-a; the guests there are db1"
            with pytest.raises(AgentRefused, match=nobody):
                await client.guest("nobody")
            with pytest.raises(AgentRefused, match="h is not under way on host-a") as refused:
                await client.commit(GUEST, "h")
            assert not refused.value.problem.in_doubt
            with pytest.raises(AgentRefused, match="guest db1 has not been handed over from or to host-a"):
                await client.handover(GUEST)
            assert (await http.get("/nothing")).status == 404
            for body in (b"", b"{}", b"\xff", b'{"handover_id":"h","alone":"no"}'):
                answer = await http.post(
                    f"/guests/{GUEST}/handover/commit",
                    data=body,
                    headers={"content-type": "application/json"},
                )
                assert answer.status == 400, await answer.text()
                assert (await answer.json())["host"] == "host-a"
            jump = await http.post(f"/guests/{GUEST}/handover/jump", json={"handover_id": "h"})
            assert jump.status in (400, 404)
            assert (await client.guest(GUEST)).devices[0].gate == "running"

    asyncio.run(test())


def test_an_agent_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def test() -> None:
        client = AgentClient(f"unix:{tmp_path}/none.sock")
        with pytest.raises(AgentError, match=r"agent at unix:.*none.sock: .*is it running"):
            await client.guests()
        await client.close()

    asyncio.run(test())
