"""A QEMU that gives a guest away and takes it back, before a QEMU that answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from holdover.qemu import outgoing
from holdover.qemu.monitor import QemuError, QemuRefused, QmpEvent, QmpTime
from holdover.qemu.outgoing import OutgoingQemu
from holdover.qemu.stream import StreamSettings


class Scripted:
    """A monitor whose QEMU has a migration status, a run state and parameters."""

    name = "QEMU"

    def __init__(self, status: str = "active", run_state: str = "running") -> None:
        self.status, self.run_state = status, run_state
        self.ends = True
        self.refuses = ""
        self.asked: list[str] = []
        self.events: list[QmpEvent] = []
        self._told: asyncio.Future[QmpEvent] | None = None
        self.parameters: dict[str, object] = {"max-bandwidth": 134217728, "downtime-limit": 300, "x": 1}

    async def query_status(self) -> str:
        return self.run_state

    async def wait_event(self, wanted: object, *, since: int = 0) -> QmpEvent:
        del wanted, since
        self._told = asyncio.get_running_loop().create_future()
        return await self._told

    def tell(self, status: str) -> None:
        assert self._told is not None
        self.status = status
        self._told.set_result(QmpEvent("MIGRATION", QmpTime(1, 0), {"status": status}))

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        self.asked.append(command)
        if command == self.refuses:
            raise QemuRefused("Migration not in expected state: pre-switchover")
        match command:
            case "query-migrate":
                return {"status": self.status}
            case "query-migrate-capabilities":
                return [{"capability": "events", "state": False}]
            case "query-migrate-parameters":
                return dict(self.parameters)
            case "migrate-set-parameters":
                self.parameters.update(arguments or {})
            case "migrate":
                self.status = "active"
            case "migrate_cancel" if self.ends:
                self.status = "cancelled"
        return {}


def qemu(monitor: Scripted) -> OutgoingQemu:
    return OutgoingQemu(monitor)  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "is_refused"), [("device", False), ("pre-switchover", True)])
def test_a_refused_switch_over_is_an_error_only_if_the_guest_still_waits_for_it(
    status: str, is_refused: bool
) -> None:
    async def test() -> None:
        monitor = Scripted(status)
        monitor.refuses = "migrate-continue"
        if is_refused:
            with pytest.raises(QemuRefused, match="not in expected state"):
                await qemu(monitor).switch_over()
        else:
            await qemu(monitor).switch_over()

    asyncio.run(test())


def test_the_event_alone_says_that_the_guest_has_stopped() -> None:
    async def test() -> None:
        monitor = Scripted("active")
        waits = asyncio.ensure_future(qemu(monitor).wait_stopped())
        await asyncio.sleep(0)
        monitor.tell("pre-switchover")
        assert (await waits).status == "pre-switchover"
        assert monitor.asked == ["query-migrate"], "and that was before the event"

    asyncio.run(test())


@pytest.mark.parametrize(
    ("status", "asked"), [("device", []), ("completed", []), ("failed", ["query-migrate"])]
)
def test_a_qemu_that_has_told_that_it_sends_is_not_asked(status: str, asked: list[str]) -> None:
    async def test() -> None:
        monitor = Scripted(status)
        source = qemu(monitor)
        for told in ("pre-switchover", status):
            monitor.events.append(QmpEvent("MIGRATION", QmpTime(1, 0), {"status": told}))
        monitor.events.append(QmpEvent("MIGRATION_PASS", QmpTime(1, 0), {"pass": 2}))
        assert (await source.wait_sent(postcopy=True)).status == status
        assert monitor.asked == asked

    asyncio.run(test())


def test_a_cancelled_migration_leaves_no_limits_to_the_next_one() -> None:
    async def test() -> None:
        monitor = Scripted("none")
        before = dict(monitor.parameters)
        source = qemu(monitor)
        await source.start("tcp:127.0.0.1:1", StreamSettings(bandwidth=1000))
        await source.change(StreamSettings(max_downtime=20))
        assert (monitor.parameters["max-bandwidth"], monitor.parameters["downtime-limit"]) == (1000, 20)
        await source.cancel(runs=True)
        assert {name: monitor.parameters[name] for name in before} == before

    asyncio.run(test())


@pytest.mark.parametrize(
    ("status", "run_state", "problem"),
    [
        ("active", "running", "its migration was cancelled and has not ended within 0.05 s"),
        ("cancelled", "finish-migrate", "its migration has ended and its guest has no run state within"),
    ],
)
def test_a_cancellation_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, status: str, run_state: str, problem: str
) -> None:
    monkeypatch.setattr(outgoing, "_CANCEL_SECONDS", 0.05)

    async def test() -> None:
        monitor = Scripted(status, run_state)
        monitor.ends = False
        async with asyncio.timeout(600):
            with pytest.raises(QemuError, match=problem):
                await qemu(monitor).cancel(runs=True)

    asyncio.run(test())
