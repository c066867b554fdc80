"""The monitor against a server that says what each test wants, and QEMU's own where it matters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

import holdover.qemu.monitor
from holdover.qemu.monitor import MigrationStatus, MonitorLost, QemuError, QemuMonitor, QmpTime

GREETING = {
    "QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}
}


class ScriptedQemu:
    """Greets, agrees to the capabilities, then answers from a table and sends events when told."""

    def __init__(self, answers: dict[str, object]) -> None:
        self.answers = answers
        self.writer: asyncio.StreamWriter | None = None
        self.asked: list[dict[str, object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.send(GREETING)
        unread = ""
        while data := await reader.read(4096):
            unread += data.decode()
            # QMP is a stream of JSON texts; nothing but their own ends divides them
            while unread := unread.lstrip():
                command, end = json.JSONDecoder().raw_decode(unread)
                unread = unread[end:]
                self.asked.append(command)
                name = command["execute"]
                if name == "vanish":
                    writer.close()
                    return
                if name == "say-nothing":
                    continue
                answer = self.answers.get(name, {} if name == "qmp_capabilities" else None)
                said: dict[str, object] = {"return": answer}
                if answer is None:
                    said = {
                        "error": {
                            "class": "CommandNotFound",
                            "desc": f"The command {name} has not been found",
                        }
                    }
                self.send({**said, "id": command["id"]} if "id" in command else said)

    def send(self, message: Mapping[str, object]) -> None:
        assert self.writer is not None
        self.writer.write(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, microseconds: int = 0, **data: object) -> None:
        self.send({"event": name, "data": data, "timestamp": {"seconds": 10, "microseconds": microseconds}})


@contextlib.asynccontextmanager
async def scripted(**answers: object) -> AsyncIterator[tuple[ScriptedQemu, Path]]:
    qemu = ScriptedQemu({name.replace("_", "-"): answer for name, answer in answers.items()})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qmp.sock"
        server = await asyncio.start_unix_server(qemu.serve, str(path))
        try:
            yield qemu, path
        finally:
            server.close()


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[ScriptedQemu, QemuMonitor]]:
    answer = {"status": "running"}
    async with (
        scripted(query_status=answer) as (qemu, path),
        await QemuMonitor.connect(path, "QEMU") as monitor,
    ):
        yield qemu, monitor


def test_queries_give_what_qemu_says() -> None:
    async def scenario() -> None:
        answers = {
            "query_status": {"status": "running", "singlestep": False, "running": True},
            "query_name": {"name": "db1"},
            "query_uuid": {"UUID": "5a3c0f2e-0000-0000-0000-000000000001"},
            "query_migrate": {
                "status": "failed",
                "error-desc": "it broke",
                "ram": {"transferred": 7, "remaining": 3},
            },
        }
        async with (
            scripted(**answers) as (_, path),
            await QemuMonitor.connect(path, "QEMU on host-a") as monitor,
        ):
            assert await monitor.query_status() == "running"
            assert await monitor.query_name() == "db1"
            assert await monitor.query_uuid() == "5a3c0f2e-0000-0000-0000-000000000001"
            status = await monitor.query_migrate()
            assert (status.status, status.error) == ("failed", "it broke")
            assert status.ram is not None
            assert (status.ram.transferred, status.ram.remaining) == (7, 3)

    asyncio.run(scenario())


def test_before_any_migration_the_status_is_none_and_a_guest_may_lack_a_name() -> None:
    async def scenario() -> None:
        answers: dict[str, object] = {"query_migrate": {}, "query_name": {}}
        async with scripted(**answers) as (_, path), await QemuMonitor.connect(path, "QEMU") as monitor:
            assert await monitor.query_migrate() == MigrationStatus("none")
            assert await monitor.query_name() is None

    asyncio.run(scenario())


def test_an_event_that_came_before_the_wait_is_found() -> None:
    async def scenario() -> None:
        async with running() as (qemu, monitor):
            qemu.event("STOP", 123)
            # its answer comes after the event, so by then the event has come
            await monitor.query_status()
            event = await monitor.wait_event(lambda event: event.name == "STOP")
            assert event.time == QmpTime(10, 123)

    asyncio.run(scenario())


def test_a_wait_passes_over_events_before_its_mark() -> None:
    async def scenario() -> None:
        async with running() as (qemu, monitor):
            qemu.event("MIGRATION", 1, status="completed")
            await monitor.query_status()
            wait = monitor.wait_event(lambda event: event.migration_status is not None, since=1)
            waiting = asyncio.create_task(wait)
            await monitor.query_status()
            assert not waiting.done()
            qemu.event("MIGRATION", 2, status="failed")
            assert (await waiting).migration_status == "failed"

    asyncio.run(scenario())


def test_two_waits_both_see_one_event() -> None:
    async def scenario() -> None:
        async with running() as (qemu, monitor):
            waits = [asyncio.create_task(monitor.wait_event(lambda event: True)) for _ in range(2)]
            await monitor.query_status()
            qemu.event("RESUME")
            assert [event.name for event in await asyncio.gather(*waits)] == ["RESUME", "RESUME"]

    asyncio.run(scenario())


def test_no_socket_is_an_error_that_names_it() -> None:
    async def scenario() -> None:
        with pytest.raises(QemuError, match=r"QEMU on host-a, monitor /nowhere/qmp.sock: .*No such file"):
            await QemuMonitor.connect("/nowhere/qmp.sock", "QEMU on host-a")

    asyncio.run(scenario())


def test_a_socket_held_by_another_client_is_named_as_the_likely_cause() -> None:
    async def scenario() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "qmp.sock"
            server = await asyncio.start_unix_server(silent, str(path))
            with pytest.raises(QemuError, match="another may hold it"):
                await QemuMonitor.connect(path, "QEMU", timeout=0.05)
            server.close()

    asyncio.run(scenario())


def test_a_refused_command_is_an_error_with_its_reason() -> None:
    async def scenario() -> None:
        async with scripted() as (_, path), await QemuMonitor.connect(path, "QEMU on host-a") as monitor:
            with pytest.raises(
                QemuError, match="QEMU on host-a refuses warp: The command warp has not been found"
            ):
                await monitor.execute("warp")

    asyncio.run(scenario())


def test_a_command_without_an_answer_ends_in_its_time() -> None:
    async def scenario() -> None:
        async with scripted() as (_, path), await QemuMonitor.connect(path, "QEMU") as monitor:
            with pytest.raises(QemuError, match="no answer to say-nothing within"):
                await monitor.execute("say-nothing", timeout=0.05)

    asyncio.run(scenario())


def test_an_answer_of_the_wrong_form_is_an_error() -> None:
    async def scenario() -> None:
        async with (
            scripted(query_status=[1]) as (_, path),
            await QemuMonitor.connect(path, "QEMU") as monitor,
        ):
            with pytest.raises(QemuError, match="query-status"):
                await monitor.query_status()

    asyncio.run(scenario())


def test_a_connection_that_ends_ends_commands_and_waits() -> None:
    async def scenario() -> None:
        async with scripted() as (_, path), await QemuMonitor.connect(path, "QEMU") as monitor:
            waiting = asyncio.create_task(monitor.wait_event(lambda event: True))
            with pytest.raises(MonitorLost):
                await monitor.execute("vanish")
            with pytest.raises(MonitorLost):
                await waiting
            assert monitor.lost
            with pytest.raises(MonitorLost, match="was not sent"):
                await monitor.query_status()

    asyncio.run(scenario())


def test_a_lost_monitor_is_no_proof_that_qemu_is_gone_but_a_closed_socket_is() -> None:
    async def scenario() -> None:
        async with scripted() as (_, path), await QemuMonitor.connect(path, "QEMU") as monitor:
            hidden = path.rename(path.with_name("hidden"))
            assert not await monitor.is_gone(), "its connection lives, whatever became of the socket"
            hidden.rename(path)
            with pytest.raises(MonitorLost):
                await monitor.execute("vanish")
            assert not await monitor.is_gone()
            path.unlink()
            assert await monitor.is_gone()

    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def lost_monitor() -> AsyncIterator[tuple[QemuMonitor, socket.socket]]:
    """A monitor whose connection has ended, and the socket in its place, which listens."""
    async with scripted() as (_, path), await QemuMonitor.connect(path, "QEMU") as monitor:
        with pytest.raises(MonitorLost):
            await monitor.execute("vanish")
        path.unlink()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            yield monitor, listener


def test_a_qemu_that_ends_is_not_taken_for_one_that_lives() -> None:
    """It closes its connections first. Its socket still takes one then, which nobody serves."""

    async def scenario() -> None:
        async with lost_monitor() as (monitor, ending):
            asked = asyncio.create_task(monitor.is_gone())
            await asyncio.to_thread(ending.accept)
            assert not asked.done()
            ending.close()
            assert await asked

    asyncio.run(scenario())


def test_a_qemu_that_ends_before_it_takes_the_connection_is_gone() -> None:
    """The connection is reset then, and not closed."""

    async def scenario() -> None:
        async with lost_monitor() as (monitor, ending):
            asked = asyncio.create_task(monitor.is_gone())
            await asyncio.to_thread(select.select, [ending], [], [])
            ending.close()
            assert await asked

    asyncio.run(scenario())


def test_a_qemu_that_greets_nobody_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped, or it hangs."""

    async def scenario() -> None:
        async with lost_monitor() as (monitor, _):
            monkeypatch.setattr(holdover.qemu.monitor, "_CONNECT_TIMEOUT", 0.1)
            assert not await monitor.is_gone()

    asyncio.run(scenario())


def test_the_time_between_two_events_counts_across_a_second() -> None:
    assert QmpTime(11, 500).milliseconds_since(QmpTime(10, 999_500)) == pytest.approx(1.0)
