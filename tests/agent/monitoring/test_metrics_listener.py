"""The address of the metrics: what it answers, to whom, and how often."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import msgspec
import pytest

from holdover.agent.host import Host
from holdover.api.client import AgentClient, AgentRefused
from holdover.config.agent_file import AgentConfig, ApiConfig, ConfigError, MetricsConfig, check_config
from tests.agent.certified import Authority, running, secured, within
from tests.rig.processes import free_port


def config(folder: Path, *, allow_remote: bool = False) -> tuple[AgentConfig, str]:
    address = f"127.0.0.1:{free_port()}"
    return (
        AgentConfig(
            name="host-a",
            initiator="iqn.2026-11.org.example:host-a",
            state_dir=str(folder),
            api=ApiConfig(listen=f"unix:{folder}/api.sock"),
            metrics=MetricsConfig(listen=address, allow_remote=allow_remote),
        ),
        f"http://{address}",
    )


def test_it_answers_three_paths_to_readers_alone(tmp_path: Path) -> None:
    async def test() -> None:
        settings, url = config(tmp_path)
        async with running(settings), aiohttp.ClientSession(url) as http:
            page = await http.get("/metrics")
            assert page.status == 200
            assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert "holdover_build_info{api=" in await page.text()
            assert (await http.get("/livez")).status == 200
            ready = await http.get("/readyz")
            assert (ready.status, (await ready.json())["ready"]) == (200, True)
            assert (await http.get("/guests")).status == 404
            assert (await http.post("/metrics", json={})).status == 405

    within(600, test)


def test_a_page_in_a_browser_and_a_foreign_name_are_refused(tmp_path: Path) -> None:
    async def test() -> None:
        settings, url = config(tmp_path)
        async with running(settings), aiohttp.ClientSession(url) as http:
            assert (await http.get("/metrics", headers={"host": "evil.example"})).status == 421
            assert (await http.get("/metrics", headers={"origin": "https://evil.example"})).status == 403
        settings, url = config(tmp_path, allow_remote=True)
        async with running(settings), aiohttp.ClientSession(url) as http:
            assert (await http.get("/metrics", headers={"host": "host-a.example:9"})).status == 200
            assert (await http.get("/metrics", headers={"origin": "https://evil.example"})).status == 403

    within(600, test)


def test_connections_have_a_budget_that_takes_nothing_from_others(tmp_path: Path) -> None:
    async def test() -> None:
        settings, url = config(tmp_path)
        _, port = url.rsplit(":", 1)
        async with running(settings) as host:
            opened = [await asyncio.open_connection("127.0.0.1", int(port)) for _ in range(8)]
            # of one address four may stay
            ended = [asyncio.ensure_future(reader.read()) for reader, _ in opened]
            while sum(each.done() for each in ended) < 4:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
            assert connections(host) == 4
            client = AgentClient(f"unix:{tmp_path}/api.sock")
            assert (await client.guests()).host == "host-a"
            await client.close()
            for _, writer in opened:
                writer.close()
            await asyncio.gather(*ended, return_exceptions=True)

    within(600, test)


def connections(host: Host) -> int:
    return next(each.count for each in host.admission.front_ends if each.name == "metrics")


def test_an_address_that_others_reach_must_be_wanted() -> None:
    base = AgentConfig(name="host-a", initiator="iqn.2026-11.org.example:host-a")
    for listen, allow, problem in (
        ("0.0.0.0:9469", False, r"anybody there could read .* allow-remote = true under \[metrics\]"),
        ("host.example:9469", False, "can be reached from other machines"),
        ("nothing", True, "is not HOST:PORT"),
    ):
        wrong = msgspec.structs.replace(base, metrics=MetricsConfig(listen=listen, allow_remote=allow))
        with pytest.raises(ConfigError, match=problem):
            check_config(wrong, "agent.toml")
    right = msgspec.structs.replace(base, metrics=MetricsConfig(listen="0.0.0.0:9469", allow_remote=True))
    check_config(right, "agent.toml")


def test_a_reader_with_a_certificate_reads_at_the_api_and_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        settings = secured(authority.issue("host-a"))
        api = msgspec.structs.replace(settings.api, readers=("prometheus",))
        async with running(msgspec.structs.replace(settings, api=api)):
            address = str(api.addresses[0])
            tls = authority.client("prometheus", "host-a")
            async with aiohttp.ClientSession(f"https://{address}") as http:
                answer = await http.get("/metrics", ssl=tls.context, server_hostname="host-a")
                assert answer.status == 200
                ready = await http.get("/readyz", ssl=tls.context, server_hostname="host-a")
                degraded = json.loads(await ready.text())["degraded"]
                assert all(each.startswith("peer host-b") for each in degraded)
                stranger = authority.client("stranger", "host-a")
                other = await http.get("/metrics", ssl=stranger.context, server_hostname="host-a")
                assert other.status == 403
            reader = AgentClient(address, tls=tls)
            assert (await reader.guests()).host == "host-a"
            with pytest.raises(AgentRefused, match="no operator of host-a"):
                await reader.commit("db1", "h")
            await reader.close()

    within(600, test)
