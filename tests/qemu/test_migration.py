"""A migration between two real QEMUs; the firmware alone is guest enough."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdover.demo.machines.process import QemuProcess, VirtualMachine
from holdover.qemu.migration import GuestPlace, LiveMigration, MigrationFailed
from holdover.qemu.monitor import MonitorLost, QemuError, QemuMonitor, RamProgress
from tests.rig.processes import free_port

pytestmark = [pytest.mark.peer("qemu-system-x86"), pytest.mark.xdist_group("qemu")]

LONG = 600.0


@dataclass
class Pair:
    source_process: QemuProcess
    destination_process: QemuProcess
    source: QemuMonitor
    destination: QemuMonitor
    migration: LiveMigration
    port: int

    async def reach_pre_switchover(self) -> None:
        await self.migration.start()
        await self.migration.wait_stopped(LONG)

    async def freeze_destination_and_switch_over(self) -> None:
        """Everything is sent, the source says `completed`, and nobody has read the last of it."""
        # What is sent from now on has to fit into the buffers of a socket that nobody reads from.
        await until(lambda: not bytes_in_flight(self.port))
        os.kill(self.destination_process.pid, signal.SIGSTOP)
        await self.migration.switch_over()
        async with asyncio.timeout(LONG):
            await self.source.wait_event(lambda event: event.migration_status == "completed")

    async def kill_destination(self) -> None:
        os.kill(self.destination_process.pid, signal.SIGKILL)
        await self.destination_process.wait()


@contextlib.asynccontextmanager
async def pair(
    progress: list[RamProgress] | None = None, *, destination_waits: bool = False
) -> AsyncIterator[Pair]:
    port = free_port()
    uri = f"tcp:127.0.0.1:{port}"
    async with contextlib.AsyncExitStack() as stack:
        giving = VirtualMachine(name="guest", memory=64)
        taking = VirtualMachine(name="guest", memory=64, incoming=uri)
        giver = await stack.enter_async_context(QemuProcess.start(giving))
        taker = await stack.enter_async_context(QemuProcess.start(taking))
        source = await stack.enter_async_context(await giver.monitor())
        destination = await stack.enter_async_context(await taker.monitor())
        # ms: so little is left to send in pre-switchover that it fits into a socket's buffers
        await source.execute("migrate-set-parameters", {"downtime-limit": 1})
        on_progress = progress.append if progress is not None else None
        migration = LiveMigration(
            source, destination, uri, destination_waits=destination_waits, on_progress=on_progress
        )
        yield Pair(giver, taker, source, destination, migration, port)


def test_a_guest_moves_and_its_standstill_is_known() -> None:
    async def scenario() -> None:
        progress: list[RamProgress] = []
        async with pair(progress) as qemus:
            migration = qemus.migration
            await migration.start()
            await migration.wait_stopped(LONG)
            assert await qemus.source.query_status() == "finish-migrate"
            assert await qemus.destination.query_status() == "inmigrate"
            assert migration.stopped_at is not None
            assert migration.standstill_ms is None
            await migration.switch_over()
            await migration.wait_arrived(LONG)
            assert await settled(qemus.source) == "postmigrate"
            assert await qemus.destination.query_status() == "running"
            assert migration.standstill_ms is not None
            assert 0 < migration.standstill_ms < LONG * 1000
            assert progress
            assert progress[-1].total > 0

    asyncio.run(scenario())


def test_only_what_is_needed_is_set() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            before = await capabilities(qemus.source)
            await qemus.reach_pre_switchover()
            changed = {
                name for name, state in (await capabilities(qemus.source)).items() if state != before[name]
            }
            assert changed == {"events", "pause-before-switchover"}
            assert (await capabilities(qemus.destination))["pause-before-switchover"] is False

    asyncio.run(scenario())


def test_a_migration_cancelled_in_pre_switchover_leaves_the_guest_running_on_the_source() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.reach_pre_switchover()
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "running"
            assert (await qemus.source.query_migrate()).status == "cancelled"
            # QEMU's own doing: the destination ends, as its stream broke off
            assert await qemus.destination_process.wait() == 1
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "running"

    asyncio.run(scenario())


def test_a_cancelled_migration_can_be_tried_again_with_another_destination() -> None:
    async def scenario() -> None:
        async with pair() as first:
            await first.reach_pre_switchover()
            await first.migration.cancel()
            async with pair() as second:
                again = LiveMigration(first.source, second.destination, second.migration.uri)
                await again.start()
                await again.wait_stopped(LONG)
                await again.switch_over()
                await again.wait_arrived(LONG)
                assert await second.destination.query_status() == "running"
                # the STOP of the attempt before is not taken for that of this one
                assert again.standstill_ms is not None
                assert again.standstill_ms < LONG * 1000
                assert again.stopped_at is not None
                assert first.migration.stopped_at is not None
                assert again.stopped_at > first.migration.stopped_at

    asyncio.run(scenario())


def test_cancel_before_anything_began_touches_nothing() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.source.execute("stop")
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "paused"

    asyncio.run(scenario())


def test_cancel_while_memory_is_sent() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            # slow enough that it has not ended when the cancellation comes
            await qemus.source.execute("migrate-set-parameters", {"max-bandwidth": 4096})
            await qemus.migration.start()
            with pytest.raises(MigrationFailed, match="was not reached within") as failure:
                await qemus.migration.wait_stopped(0.2)
            assert failure.value.place is GuestPlace.SOURCE
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "running"

    asyncio.run(scenario())


def test_a_destination_that_dies_in_pre_switchover_is_no_obstacle_to_cancel() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.reach_pre_switchover()
            await qemus.kill_destination()
            assert await qemus.source.query_status() == "finish-migrate"
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "running"

    asyncio.run(scenario())


def test_a_destination_that_died_makes_the_switch_over_fail_and_the_guest_is_on_the_source() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.reach_pre_switchover()
            await qemus.kill_destination()
            await qemus.migration.switch_over()
            with pytest.raises(MigrationFailed) as failure:
                await qemus.migration.wait_arrived(LONG)
            # A source that has not yet heard from the dead host's TCP says `completed`, and keeps the guest.
            expected = {"failed": GuestPlace.SOURCE, "completed": GuestPlace.SOURCE_STOPPED}
            assert failure.value.status is not None
            assert failure.value.place is expected[failure.value.status]
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "running"

    asyncio.run(scenario())


def test_a_destination_that_dies_with_the_guest_in_its_socket_gives_it_back() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.reach_pre_switchover()
            await qemus.freeze_destination_and_switch_over()
            await qemus.kill_destination()
            with pytest.raises(MigrationFailed) as failure:
                await qemus.migration.wait_arrived(LONG)
            assert failure.value.place is GuestPlace.SOURCE_STOPPED
            assert await settled(qemus.source) == "postmigrate"
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "running"

    asyncio.run(scenario())


def test_a_destination_that_stands_still_leaves_the_guest_in_doubt_and_nothing_is_run_twice() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.reach_pre_switchover()
            await qemus.freeze_destination_and_switch_over()
            with pytest.raises(MigrationFailed) as failure:
                await qemus.migration.wait_arrived(0.3)
            assert failure.value.place is GuestPlace.IN_DOUBT
            with pytest.raises(MigrationFailed) as failure:
                await qemus.migration.cancel(0.3)
            assert failure.value.place is GuestPlace.IN_DOUBT
            assert await settled(qemus.source) == "postmigrate"
            os.kill(qemus.destination_process.pid, signal.SIGCONT)
            await qemus.migration.wait_arrived(LONG)
            assert await qemus.destination.query_status() == "running"
            assert await settled(qemus.source) == "postmigrate"

    asyncio.run(scenario())


def test_after_the_guest_has_moved_cancel_refuses() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.reach_pre_switchover()
            await qemus.migration.switch_over()
            await qemus.migration.wait_arrived(LONG)
            with pytest.raises(MigrationFailed, match="too late") as failure:
                await qemus.migration.cancel()
            assert failure.value.place is GuestPlace.DESTINATION
            assert await settled(qemus.source) == "postmigrate"

    asyncio.run(scenario())


def test_a_guest_that_has_moved_is_not_sent_a_second_time() -> None:
    async def scenario() -> None:
        async with pair() as first, pair() as second:
            await first.reach_pre_switchover()
            await first.migration.switch_over()
            await first.migration.wait_arrived(LONG)
            await settled(first.source)
            with pytest.raises(QemuError, match="no guest to migrate: its state is postmigrate"):
                await LiveMigration(first.source, second.destination, second.migration.uri).start()

    asyncio.run(scenario())


def test_a_source_that_dies_in_pre_switchover_is_named_and_ends_the_destination_too() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.reach_pre_switchover()
            os.kill(qemus.source_process.pid, signal.SIGKILL)
            await qemus.source_process.wait()
            with pytest.raises(MonitorLost, match="QEMU of guest"):
                await qemus.migration.cancel()
            assert await qemus.destination_process.wait() == 1

    asyncio.run(scenario())


def test_nobody_listening_ends_the_migration_with_qemus_reason() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            unheard = LiveMigration(qemus.source, qemus.destination, "unix:/nowhere/migration.sock")
            await unheard.start()
            with pytest.raises(MigrationFailed, match=r"failed: .*nowhere") as failure:
                await unheard.wait_stopped(LONG)
            assert failure.value.place is GuestPlace.SOURCE
            await unheard.cancel()
            assert await qemus.source.query_status() == "running"

    asyncio.run(scenario())


def test_a_destination_that_waits_for_nothing_is_refused() -> None:
    async def scenario() -> None:
        async with pair() as first, pair() as second:
            with pytest.raises(QemuError, match="does not wait for a guest: its state is running"):
                await LiveMigration(first.source, second.source, first.migration.uri).start()
            assert (await first.source.query_migrate()).status == "none"

    asyncio.run(scenario())


def test_a_destination_that_was_not_to_run_by_itself_is_told_to() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            # while a guest is awaited, `stop` is what starting QEMU with -S is
            await qemus.destination.execute("stop")
            await qemus.reach_pre_switchover()
            await qemus.migration.switch_over()
            await qemus.migration.wait_arrived(LONG)
            assert await qemus.destination.query_status() == "running"
            assert qemus.migration.standstill_ms is not None

    asyncio.run(scenario())


def test_a_destination_that_waits_runs_the_guest_when_it_is_told_to() -> None:
    async def scenario() -> None:
        async with pair(destination_waits=True) as qemus:
            await qemus.reach_pre_switchover()
            await qemus.migration.switch_over()
            await qemus.migration.wait_arrived(LONG)
            assert await qemus.destination.query_status() == "paused"
            assert await settled(qemus.source) == "postmigrate"
            assert qemus.migration.standstill_ms is None
            await qemus.migration.run_destination(LONG)
            assert await qemus.destination.query_status() == "running"
            assert qemus.migration.standstill_ms is not None

    asyncio.run(scenario())


@pytest.mark.parametrize("arrived", [True, False])
def test_a_guest_that_was_not_told_to_run_goes_back_and_cannot_be_run_there(arrived: bool) -> None:
    async def scenario() -> None:
        async with pair(destination_waits=True) as qemus:
            await qemus.reach_pre_switchover()
            await qemus.migration.switch_over()
            if arrived:
                await qemus.migration.wait_arrived(LONG)
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "running"
            await qemus.destination_process.wait()

    asyncio.run(scenario())


def test_a_destination_that_waits_and_dies_gives_the_guest_back() -> None:
    async def scenario() -> None:
        async with pair(destination_waits=True) as qemus:
            await qemus.reach_pre_switchover()
            await qemus.migration.switch_over()
            await qemus.migration.wait_arrived(LONG)
            await qemus.kill_destination()
            with pytest.raises(MigrationFailed) as failure:
                await qemus.migration.run_destination(LONG)
            assert failure.value.place is GuestPlace.SOURCE_STOPPED
            await qemus.migration.cancel()
            assert await qemus.source.query_status() == "running"

    asyncio.run(scenario())


def test_a_destination_that_waits_and_stands_still_is_not_taken_for_dead() -> None:
    async def scenario() -> None:
        async with pair(destination_waits=True) as qemus:
            await qemus.reach_pre_switchover()
            await qemus.freeze_destination_and_switch_over()
            with pytest.raises(MigrationFailed) as failure:
                await qemus.migration.cancel(0.5)
            assert failure.value.place is GuestPlace.SOURCE_STOPPED
            assert await settled(qemus.source) == "postmigrate"

    asyncio.run(scenario())


def test_a_paused_guest_arrives_at_a_destination_that_waits_and_stays_paused() -> None:
    async def scenario() -> None:
        async with pair(destination_waits=True) as qemus:
            await qemus.source.execute("stop")
            await qemus.reach_pre_switchover()
            await qemus.migration.switch_over()
            await qemus.migration.wait_arrived(LONG)
            await qemus.migration.run_destination(LONG)
            assert await qemus.destination.query_status() == "paused"

    asyncio.run(scenario())


def test_a_paused_guest_moves_and_stays_paused() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.source.execute("stop")
            await qemus.reach_pre_switchover()
            await qemus.migration.switch_over()
            await qemus.migration.wait_arrived(LONG)
            assert await qemus.destination.query_status() == "paused"

    asyncio.run(scenario())


def test_a_paused_guest_stays_paused_after_a_cancelled_migration() -> None:
    async def scenario() -> None:
        async with pair() as qemus:
            await qemus.source.execute("stop")
            await qemus.reach_pre_switchover()
            await qemus.migration.cancel()
            assert await qemus.source.query_status() != "running"

    asyncio.run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():  # noqa: ASYNC110 - the kernel and QEMU send no event for what is awaited
            await asyncio.sleep(0.01)


async def settled(monitor: QemuMonitor) -> str:
    """The source's run state, which leaves finish-migrate a moment after the migration has ended."""
    async with asyncio.timeout(LONG):
        while (state := await monitor.query_status()) == "finish-migrate":  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    return state


def bytes_in_flight(port: int) -> int:
    """How many bytes the connections to and from a port of 127.0.0.1 hold that nobody has read."""
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if f"{port:04X}" in {local.split(":")[1], remote.split(":")[1]}:
            count += sum(int(size, 16) for size in queues.split(":"))
    return count


async def capabilities(monitor: QemuMonitor) -> dict[str, bool]:
    listed = await monitor.execute("query-migrate-capabilities")
    assert isinstance(listed, list)
    return {entry["capability"]: entry["state"] for entry in listed}
