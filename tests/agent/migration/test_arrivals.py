"""A QEMU that has a guest runs it only while the record of its host says that the reservations are there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.agent.migration import arrivals as arrivals_module
from holdover.agent.migration.arrivals import ArrivalRefused, Arrivals
from holdover.agent.migration.migrations import MigrationProblem
from holdover.agent.migration.monitors import Monitors
from holdover.agent.migration.tls_folder import TlsFolders
from holdover.api.migration_documents import (
    MigrationOptions,
    QemuAction,
    QemuAnswer,
    QemuPlace,
    QemuRequest,
    Ran,
)
from holdover.config.agent_file import AgentConfig
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.command import Command
from tests.agent.hosts import GUEST, Fate, san
from tests.agent.migration.model import ID, FakeMonitor, FakeMonitors, Fault, World


def committed() -> tuple[World, Arrivals]:
    """A handover that was committed, and the QEMU of the destination, which does not have the guest yet."""
    world = World(Fault.NOTHING, 0)
    world.handovers.state_name = "committed"
    config = AgentConfig(name="b", initiator="iqn.2026-11.org.example:b")
    monitors: Monitors = FakeMonitors(world.destination)  # type: ignore[assignment]
    newest, tls = world.handovers.at_destination, TlsFolders(lambda: config)
    return world, Arrivals(lambda: config, monitors, newest, tls, lambda _: True, world.handovers.settled)


def asks(arrivals: Arrivals, action: QemuAction) -> asyncio.Task[QemuAnswer]:
    request = QemuRequest(
        guest=GUEST, migration_id=ID, action=action, options=MigrationOptions(), runs=True, wait=20.0
    )
    return asyncio.ensure_future(arrivals.ask(request, "a", "127.0.0.1"))


async def until_step(world: World, step: str) -> None:
    while step not in world.steps:  # noqa: ASYNC110 - no event tells of each step
        await asyncio.sleep(0)


def arrive(world: World) -> None:
    world.source.run_state = "postmigrate"
    world.destination.run_state = "paused"
    world.destination.enter("completed")


def test_a_guest_that_is_to_run_before_it_has_arrived_runs_when_it_arrives() -> None:
    async def test() -> None:
        world, arrivals = committed()
        runs = asks(arrivals, QemuAction.RUN)
        await until_step(world, "b: query-status")
        for _ in range(10):
            await asyncio.sleep(0)
        assert world.destination.run_state == "inmigrate"
        mark = len(world.steps)
        arrive(world)
        answer = await runs
        assert (answer.place, answer.ran) == (QemuPlace.RUNNING, Ran.YES)
        assert answer.resumed is not None
        assert world.steps[mark:] == ["b: cont"], "its QEMU is asked nothing before"

    asyncio.run(test())


def test_a_qemu_that_was_told_to_listen_is_not_asked_how_far_it_is() -> None:
    async def test() -> None:
        world, arrivals = committed()
        assert (await asks(arrivals, QemuAction.OPEN)).place is QemuPlace.LISTENING
        mark = len(world.steps)
        runs = asks(arrivals, QemuAction.RUN)
        for _ in range(30):
            await asyncio.sleep(0)
        arrive(world)
        assert (await runs).ran is Ran.YES
        assert world.steps[mark:] == ["b: cont"]

    asyncio.run(test())


def test_a_guest_that_does_not_arrive_is_not_run() -> None:
    async def test() -> None:
        world, arrivals = committed()
        run = QemuRequest(guest=GUEST, migration_id=ID, action=QemuAction.RUN, runs=True, wait=0.02)
        answer = await arrivals.ask(run, "a", "127.0.0.1")
        assert answer.place is QemuPlace.LISTENING
        assert world.destination.run_state == "inmigrate"

    asyncio.run(test())


def test_a_guest_that_was_rolled_back_while_its_run_waited_does_not_run() -> None:
    async def test() -> None:
        world, arrivals = committed()
        waits = asks(arrivals, QemuAction.WAIT)
        await until_step(world, "b: query-status")
        runs = asks(arrivals, QemuAction.RUN)
        await asyncio.sleep(0)
        world.handovers.state_name = "stayed"
        arrive(world)
        await waits
        with pytest.raises(ArrivalRefused, match=r"must not run on b: .* is returned"):
            await runs
        assert world.destination.run_state == "paused"

    asyncio.run(test())


def test_a_guest_that_is_rolled_back_while_its_qemu_is_looked_at_does_not_run() -> None:
    async def test() -> None:
        world, arrivals = committed()
        arrive(world)
        runs = asks(arrivals, QemuAction.RUN)
        await until_step(world, "b: query-migrate")
        world.handovers.state_name = "stayed"
        with pytest.raises(ArrivalRefused, match="must not run on b"):
            await runs
        assert world.destination.run_state == "paused"

    asyncio.run(test())


def test_a_guest_that_goes_back_already_does_not_run_though_no_record_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = set_up.guest_on("host-a")
            await guest.register()
            await guest.reserve(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
            operator, there = set_up.clients["host-a"], set_up.hosts["host-b"]
            await operator.prepare(GUEST, ID, "host-b")
            await operator.commit(GUEST, ID)
            asked, go_on = asyncio.Event(), asyncio.Event()

            async def hold_up(host: str, _: Command) -> Fate:
                if host == "host-b":
                    asked.set()
                    await go_on.wait()
                return Fate.ANSWERED

            set_up.hook(hold_up)
            goes_back = asyncio.ensure_future(operator.roll_back(GUEST, ID))
            await asked.wait()
            newest = there.handovers.state(GUEST)
            assert newest is not None
            assert newest.state == "committed"
            run = QemuRequest(guest=GUEST, migration_id=ID, action=QemuAction.RUN, runs=True)
            with pytest.raises(MigrationProblem, match="must not run on host-b: its commands do not pass"):
                await there.migrations.receive(run, "host-a", "127.0.0.1")
            go_on.set()
            assert (await goes_back).state == "stayed"

    asyncio.run(test())


def test_a_source_that_goes_away_leaves_no_connection_to_the_qemu_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """QEMU serves one client at its monitor, and the next one may be another program."""
    monkeypatch.setattr(arrivals_module, "_IDLE_SECONDS", 0.02)

    async def test() -> None:
        world, arrivals = committed()
        made: list[FakeMonitor] = []
        connect = FakeMonitors.connect

        async def connect_and_note(monitors: FakeMonitors, guest: str) -> FakeMonitor:
            made.append(await connect(monitors, guest))
            return made[-1]

        monkeypatch.setattr(FakeMonitors, "connect", connect_and_note)
        await asks(arrivals, QemuAction.OPEN)
        await asyncio.sleep(0.1)
        assert not made[0].lost, "its handover is open"
        world.handovers.state_name = "gone"
        async with asyncio.timeout(600):
            while not made[0].lost:  # noqa: ASYNC110 - the monitor is a fake
                await asyncio.sleep(0.01)
        await arrivals.close()

    asyncio.run(test())
