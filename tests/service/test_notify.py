"""What systemd is told, on a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from holdover.agent.daemon import serve
from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig, ApiConfig
from holdover.journal.memory import MemoryJournal
from holdover.service.notify import ServiceManager
from tests.agent.certified import within
from tests.rig.processes import Rig


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(tmp_path / "notify"))
    made.settimeout(600)
    return made


def test_what_each_call_says(tmp_path: Path, manager: socket.socket) -> None:
    told = ServiceManager.of({"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "3000000"}, 1)
    assert told.watchdog == 3
    told.ready("2 guests")
    told.alive()
    told.reloading()
    told.stopping()
    said = [manager.recv(100) for _ in range(4)]
    assert said == [b"READY=1\nSTATUS=2 guests", b"WATCHDOG=1", b"RELOADING=1", b"STOPPING=1"]


def test_an_abstract_socket_and_none() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind(f"\0holdover-test-{os.getpid()}")
        ServiceManager(f"@holdover-test-{os.getpid()}").alive()
        assert here.recv(100) == b"WATCHDOG=1"
    ServiceManager(None).ready("")
    ServiceManager("/nowhere/at/all").ready("")


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    assert ServiceManager.of({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "2"}, 1).watchdog is None
    assert ServiceManager.of({"WATCHDOG_USEC": "nonsense"}, 1).watchdog is None
    assert ServiceManager.of({}, 1).watchdog is None


def test_an_agent_is_ready_lives_and_stops(tmp_path: Path, manager: socket.socket) -> None:
    config = AgentConfig(
        name="host-a",
        initiator="iqn.2026-11.org.example:host-a",
        state_dir=str(tmp_path),
        api=ApiConfig(listen=f"unix:{tmp_path}/api.sock"),
    )

    async def test() -> None:
        ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
        told = ServiceManager(str(tmp_path / "notify"), watchdog=0.03)
        task = asyncio.create_task(serve(config, ready.set_result, MemoryJournal(), manager=told))
        said: list[bytes] = []

        async def read() -> None:
            while b"STOPPING=1" not in said:
                said.append(await asyncio.get_running_loop().sock_recv(manager, 100))

        manager.setblocking(False)
        reading = asyncio.create_task(read())
        await ready
        while said.count(b"WATCHDOG=1") < 3:  # noqa: ASYNC110 - the reader tells nobody
            await asyncio.sleep(0.01)
        assert said[0] == b"READY=1\nSTATUS=0 guests"
        os.kill(os.getpid(), signal.SIGHUP)
        while said.count(b"READY=1\nSTATUS=0 guests") < 2:  # noqa: ASYNC110 - the reader tells nobody
            await asyncio.sleep(0.01)
        assert b"RELOADING=1" in said
        os.kill(os.getpid(), signal.SIGTERM)
        await task
        await reading

    within(60, test)


def test_the_helper_says_that_it_is_ready(rig: Rig, tmp_path: Path, manager: socket.socket) -> None:
    helper = tmp_path / "helper.sock"
    rig.start(
        "helper",
        ["pr-helper", "-k", str(helper)],
        ports=[f"unix:{helper}"],
        environment={"NOTIFY_SOCKET": str(tmp_path / "notify")},
    )
    assert manager.recv(100) == b"READY=1\nSTATUS=taking connections"
