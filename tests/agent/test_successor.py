"""The successor of an agent: it starts beside the agent and replaces it. If it cannot, the agent goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.agents import GUEST, own_environment, settings
from bench.service_manager import ServiceManager as Manager
from structlog.testing import capture_logs

from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.agent.successor import Predecessor, Successor
from holdover.config.agent_file import export_iqn
from holdover.demo.processes import free_port
from holdover.service.notify import ServiceManager
from holdover.service.stored_sockets import StoredSockets
from tests.rig.processes import Rig

_PATIENCE = 600.0
_KEY = "0xdb1"


@dataclass(frozen=True)
class Service:
    """An agent as a service, with one guest behind an export."""

    rig: Rig
    manager: Manager
    config: Path
    export: str

    @property
    def url(self) -> str:
        """The guest's disk."""
        secret = ChapSecrets(self.rig.folder / "host-a.state").file(GUEST).read_text(encoding="ascii")
        return f"iscsi://{GUEST}%{secret}@{self.export}/{export_iqn(GUEST)}/0"

    def works(self, *arguments: str) -> str:
        """Type a command that succeeds."""
        done = self.rig.holdover(*arguments)
        assert done.returncode == 0, done.stderr + self.manager.output
        return done.stdout

    def status(self) -> str:
        return self.works("status", "--api", self.rig.hosts["host-a"].api)

    def logged(self, words: str) -> None:
        """Wait until the service has logged that."""
        end = time.monotonic() + _PATIENCE
        while words not in self.manager.output:
            assert time.monotonic() < end, self.manager.output
            time.sleep(0.02)


@pytest.fixture
def service(rig: Rig) -> Iterator[Service]:
    folder, export = rig.folder, f"127.0.0.1:{free_port()}"
    config = folder / "agent.toml"
    text = settings(folder, "host-a", rig.hosts, export, [rig.target().url()], incoming=False)
    config.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "holdover", "agent", "--config", str(config)]
    with Manager(command, own_environment(folder), folder) as manager:
        manager.start()
        yield Service(rig, manager, config, export)


@contextmanager
def connecting(address: str) -> Iterator[list[OSError]]:
    """Connect again and again until the block ends; the errors of that."""
    host, _, port = address.rpartition(":")
    errors: list[OSError] = []
    end = threading.Event()

    def work() -> None:
        while not end.wait(0.01):
            try:
                socket.create_connection((host, int(port))).close()
            except OSError as error:
                errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield errors
    finally:
        end.set()
        thread.join()


def test_a_successor_goes_on_with_guests_and_sockets(service: Service) -> None:
    service.works("pr", "register", service.url, "--new-key", _KEY)
    service.works("pr", "reserve", service.url, "--key", _KEY, "--type", "wero")
    numbers = [service.manager.pid]
    for _ in range(2):  # a successor can have a successor
        with connecting(service.export) as errors:
            service.manager.replace()
            assert _KEY in service.status()
        assert errors == []
        numbers.append(service.manager.pid)
    assert len(set(numbers)) == 3
    service.works("pr", "release", service.url, "--key", _KEY, "--type", "wero")
    service.manager.restart()
    assert _KEY in service.status()


@pytest.mark.provokes("successor")
def test_a_successor_that_cannot_start_leaves_the_agent_as_it_is(service: Service) -> None:
    text, number = service.config.read_text(), service.manager.pid
    service.config.write_text(text.replace("[journal]", "[jurnal]"))
    service.manager.signal(signal.SIGUSR2)
    service.logged("The successor cannot start; this agent goes on.")
    service.logged("explain=successor")
    assert "jurnal" in service.manager.output
    assert GUEST in service.status()
    assert service.manager.pid == number
    service.config.write_text(text)
    service.manager.replace()
    assert GUEST in service.status()


def test_a_successor_whose_agent_has_ended_otherwise_ends_too(service: Service) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    disks, unused = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, disks, unused:
        numbers = (there.fileno(), disks.fileno())
        process = subprocess.Popen(
            [sys.executable, "-m", "holdover", "agent", "--config", str(service.config)],
            env={
                **own_environment(service.rig.folder),
                "HOLDOVER_SUCCESSOR": ",".join(map(str, numbers)),
            },
            pass_fds=numbers,
            stderr=subprocess.PIPE,
            text=True,
        )
        there.close()
        here.settimeout(_PATIENCE)
        assert here.recv(10) == b"ready"
        here.close()
        _, said = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 1
    assert "holdover explain successor" in said
    assert GUEST in service.status()
    os.kill(service.manager.pid, 0)


def test_the_first_process_of_a_container_starts_no_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        manager = ServiceManager(None)
        successor = Successor(manager, StoredSockets(manager), OpenDisks())
        with capture_logs() as logs:
            successor.start(pytest.fail)
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        assert logs[0]["event"] == "The successor cannot start; this agent goes on."
        assert "container" in logs[0]["reason"]
        assert not successor.is_ready

    monkeypatch.setattr(os, "getpid", lambda: 1)
    asyncio.run(test())


def test_an_old_agent_that_does_not_end_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdover.agent.successor._END_SECONDS", 0.01)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        assert not Predecessor(there, 0, ()).await_end()
        assert here.recv(10) == b"ready"


def test_a_successor_goes_on_when_the_old_agent_says_so() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        here.send(b"go")
        assert Predecessor(there, 0, ()).await_end()
