"""The subscription to libvirt's events: what it reports, and that it finds libvirt again."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdover.agent.libvirt.libvirt_python import _MODULES, load_libvirt
from holdover.agent.libvirt.qemu_events import QemuEvents
from holdover.libvirt.policy import Seen


class LibvirtError(Exception):
    """libvirt's own error."""


class Domain:
    """A guest."""

    def __init__(self, name: str, state: int) -> None:
        self._name, self._state = name, state

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return f"uuid of {self._name}"

    def state(self) -> list[int]:
        return [self._state, 0]


class Connection:
    """A connection; it ends when `alive` is False."""

    def __init__(self, domains: list[Domain]) -> None:
        self.domains = domains
        self.alive = True

    def setKeepAlive(self, interval: int, count: int) -> None:
        assert interval > 0
        assert count > 0

    def listAllDomains(self, flags: int) -> list[Domain]:
        assert flags == Libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING
        return [each for each in self.domains if each.state()[0] == Libvirt.VIR_DOMAIN_RUNNING]

    def lookupByName(self, name: str) -> Domain:
        for each in self.domains:
            if each.name() == name:
                return each
        raise LibvirtError(name)

    def isAlive(self) -> bool:
        return self.alive

    def close(self) -> None:
        self.alive = False


class Libvirt:
    """Both modules; a byte in its pipe wakes the loop of events, as a message of libvirtd does."""

    libvirtError = LibvirtError
    VIR_EVENT_HANDLE_READABLE = 1
    VIR_CONNECT_LIST_DOMAINS_RUNNING = 16
    VIR_DOMAIN_RUNNING = 1

    def __init__(self, connections: list[Connection | None]) -> None:
        self.connections = connections
        self.pending: list[tuple[Domain, str, str | None]] = []
        self._fds: list[int] = []
        self._read, self._write = os.pipe()
        self._callback: Any = None

    def registerErrorHandler(self, handler: Any, context: Any) -> None:
        handler(context, None)

    def virEventRegisterDefaultImpl(self) -> None:
        self._fds = [self._read]

    def virEventAddHandle(self, fd: int, events: int, callback: Any, opaque: Any) -> int:
        self._fds.append(fd)
        return fd

    def virEventRemoveHandle(self, handle: int) -> None:
        self._fds.remove(handle)

    def open(self, uri: str) -> Connection:
        assert uri == "qemu:///system"
        found = self.connections.pop(0) if self.connections else None
        if found is None:
            raise LibvirtError("nobody listens")
        return found

    def qemuMonitorEventRegister(
        self, connection: Any, domain: Any, event: Any, callback: Any, *_: Any
    ) -> None:
        self._callback = callback

    def virEventRunDefaultImpl(self) -> None:
        ready, _, _ = select.select(self._fds, [], [])
        if self._read in ready:
            os.read(self._read, 1)
            while self.pending:
                domain, event, details = self.pending.pop(0)
                self._callback(None, domain, event, 1, 2, details, None)

    def passes(self, *events: tuple[Domain, str, str | None]) -> None:
        """libvirtd sends events."""
        self.pending += events
        os.write(self._write, b".")


async def report(heard: asyncio.Queue[tuple[str, str, Seen]]) -> tuple[str, Seen]:
    guest, uuid, seen = await heard.get()
    assert uuid == f"uuid of {guest}"
    return guest, seen


def test_it_reports_what_libvirt_passes_on_and_nothing_else() -> None:
    async def test() -> None:
        db1, web = Domain("db1", 1), Domain("web", 3)
        libvirt = Libvirt([Connection([db1, web])])
        heard: asyncio.Queue[tuple[str, str, Seen]] = asyncio.Queue()
        events = QemuEvents(
            "qemu:///system", lambda *said: heard.put_nowait(said), load=lambda: (libvirt, libvirt)
        )
        events.start()
        assert await report(heard) == ("db1", Seen.RUNS)
        libvirt.passes(
            (db1, "STOP", None),
            (db1, "MIGRATION", '{"status": "active"}'),
            (db1, "MIGRATION", '{"status": "pre-switchover"}'),
            (db1, "MIGRATION", '{"status": "device"}'),
            (db1, "MIGRATION", '{"status": "completed"}'),
            (web, "RESUME", None),
        )
        assert [await report(heard) for _ in range(3)] == [
            ("db1", Seen.PRE_SWITCHOVER),
            ("db1", Seen.SENT),
            ("web", Seen.RUNS),
        ]
        assert await events.runs("db1")
        assert not await events.runs("web")
        assert not await events.runs("nobody")
        await events.close()
        assert heard.empty()

    asyncio.run(test())


def test_it_finds_libvirt_again_and_says_what_runs_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdover.agent.libvirt.qemu_events._RETRY_SECONDS", 0.01)

    async def test() -> None:
        db1 = Domain("db1", 1)
        first, second = Connection([]), Connection([db1])
        libvirt = Libvirt([None, None, first, None, second])
        heard: asyncio.Queue[tuple[str, str, Seen]] = asyncio.Queue()
        events = QemuEvents(
            "qemu:///system", lambda *said: heard.put_nowait(said), load=lambda: (libvirt, libvirt)
        )
        events.start()
        libvirt.passes((db1, "RESUME", None))
        assert await report(heard) == ("db1", Seen.RUNS)
        first.alive = False
        libvirt.passes()
        assert await report(heard) == ("db1", Seen.RUNS)
        await events.close()
        assert not await events.runs("db1")

    asyncio.run(test())


def test_without_libvirts_modules_nothing_happens() -> None:
    async def test() -> None:
        events = QemuEvents("qemu:///system", lambda *_: pytest.fail("heard"), load=lambda: None)
        events.start()
        assert not await events.runs("db1")
        await events.close()

    asyncio.run(test())


@pytest.fixture
def none_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Python without libvirt's modules."""
    for name in _MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    yield
    for name in _MODULES:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("none_installed")
def test_modules_are_found_in_the_folders_of_the_system_all_or_none(tmp_path: Path) -> None:
    for name in _MODULES[:-1]:
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n")
    assert load_libvirt((str(tmp_path),)) is None
    (tmp_path / "libvirt_qemu.py").write_text("import libvirt\nNAME = libvirt.NAME + ' qemu'\n")
    found = load_libvirt((str(tmp_path),))
    assert found is not None
    assert [each.NAME for each in found] == ["libvirt", "libvirt qemu"]
