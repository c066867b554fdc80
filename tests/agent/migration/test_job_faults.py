"""Whatever dies at whatever step of a migration: the guest runs in one QEMU, or its end is named."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from holdover.agent.migration import insisting, phase_work
from holdover.agent.migration import job as job_module
from holdover.agent.migration.job import ROLE, Job
from holdover.api.documents import HandoverState
from holdover.handover.states import Event
from holdover.journal.journal import JournalError
from holdover.journal.records import HandoverRecord, Record
from holdover.migrate.migration import Migration, NotNow, next_of, now_of
from holdover.migrate.phases import Phase
from holdover.qemu.monitor import QemuError
from tests.agent.migration.model import GUEST, FakeHandovers, FakeMonitor, FakeMonitors, Fault, World, fresh

MOST_STEPS = 300
"""More than any migration has."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    monkeypatch.setattr(job_module, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(job_module, "_LONGEST_PAUSE", 0.002)
    monkeypatch.setattr(phase_work, "PAUSE", 0.001)
    monkeypatch.setattr(insisting, "PAUSE", 0.001)
    monkeypatch.setattr(phase_work, "_WAIT", 0.01)
    monkeypatch.setattr(phase_work, "_RUN_WAIT", 0.01)
    monkeypatch.setattr(phase_work, "_LOOK_AGAIN", 0.001)


def on_record(world: World) -> Migration | None:
    records = [each for each in world.journal.load().handovers if each.role == ROLE]
    return msgspec.json.decode(records[-1].body, type=Migration) if records else None


async def run(world: World, dies_too: str = "") -> Migration | None:
    """Run a migration to its end, with a new agent where the first one has died; None: nothing began.

    ``dies_too``: the host whose QEMU dies with the agent.
    """
    job = world.job(fresh())
    job.start()
    crashed = asyncio.ensure_future(world.crashed.wait())
    ended = asyncio.ensure_future(job.ended())
    try:
        async with asyncio.timeout(600):
            await asyncio.wait({crashed, ended}, return_when=asyncio.FIRST_COMPLETED)
            if crashed.done():
                await job.close()
                for qemu in (world.source, world.destination):
                    if qemu.name == dies_too:
                        qemu.die()
                migration = on_record(world)
                if migration is None:
                    return None
                job = world.job(migration)
                job.restart()
                await job.ended()
    except TimeoutError:
        pytest.fail("\n".join([f"it does not end: {job.migration}", *world.steps[-60:]]))
    finally:
        crashed.cancel()
        ended.cancel()
        await job.close()
    return job.migration


def asked_later(world: World, qemu: str) -> bool:
    """Whether a QEMU was asked for anything when the fault had struck."""
    mark = next(number for number, step in enumerate(world.steps) if step.startswith("***"))
    return any(step.startswith(f"{qemu}: ") for step in world.steps[mark:])


def judge(world: World, migration: Migration | None) -> None:
    """The promises, at the end."""
    told = "\n".join([str(migration), *world.steps])
    source, destination = world.source, world.destination
    if migration is None:
        assert world.handovers.state_name == "", told
        assert not source.alive or source.run_state == "running", told
        return
    assert not migration.is_open, told
    if migration.moved:
        assert world.handovers.state_name == "gone", told
        assert source.run_state != "running" or not source.alive, told
        if destination.alive:
            assert destination.run_state == "running", told
        else:
            assert "does not run" in now_of(migration) or not asked_later(world, "b"), told
    else:
        assert world.handovers.state_name in ("stayed", ""), told
        assert not world.destination_ran, told
        assert not destination.alive or destination.run_state == "inmigrate", told
        if source.alive:
            assert source.run_state == "running", told
        else:
            assert "does not run" in now_of(migration) or not asked_later(world, "a"), told


@pytest.mark.parametrize("commit_is_refused", [False, True], ids=["committed", "refused"])
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
def test_whatever_dies_at_whatever_step(fault: Fault, commit_is_refused: bool) -> None:
    for at in range(1, MOST_STEPS):
        world = World(fault, at, commit_is_refused=commit_is_refused)

        async def one(world: World = world) -> Migration | None:
            return await run(world)

        judge(world, asyncio.run(one()))
        if fault is Fault.NOTHING or len(world.steps) < at:
            break
    else:
        pytest.fail("a migration of more steps than there are")


@pytest.mark.parametrize("dies_too", ["", "a", "b"])
def test_a_qemu_dies_with_the_source_agent_at_whatever_step(dies_too: str) -> None:
    """Where the guest has come to the source by a migration itself; with "" the agent dies alone."""
    for at in range(1, MOST_STEPS):
        world = World(Fault.SOURCE_AGENT_LATE, at, came_before=True)

        async def one(world: World = world) -> Migration | None:
            return await run(world, dies_too)

        judge(world, asyncio.run(one()))
        if len(world.steps) < at:
            break


async def enters(job: Job, phase: Phase) -> None:
    while job.migration.phase is not phase:  # noqa: ASYNC110 - no event tells of each phase
        await asyncio.sleep(0)


def test_without_a_fault_it_moves() -> None:
    async def test() -> None:
        world = World(Fault.NOTHING, 0)
        migration = await run(world)
        assert migration is not None
        assert migration.phase is Phase.MOVED
        assert on_record(world) == migration

    asyncio.run(test())


def test_nobody_is_asked_anything_for_which_the_guest_would_stand_still() -> None:
    async def test() -> None:
        world = World(Fault.NOTHING, 0)
        await run(world)
        stopped, runs = world.steps.index(Event.ASKED_COMMIT.value), world.steps.index("b: cont")
        between = world.steps[stopped + 1 : runs]
        assert set(between) <= {"a: migrate-continue", "request: run"}

    asyncio.run(test())


@pytest.mark.parametrize("leaves", [False, True])
def test_the_commit_has_a_head_start_before_qemu_sends_the_rest(
    monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """A commit that waits for a slow disk does not keep QEMU waiting."""

    async def test() -> None:
        world, sent, ask = World(Fault.NOTHING, 0), asyncio.Event(), world_ask
        monkeypatch.setattr(phase_work, "_HEAD_START", 60.0 if leaves else 0.001)

        async def asked(name: str, handover_id: str, event: Event) -> HandoverState:
            if event is Event.ASKED_COMMIT and leaves:
                for _ in range(20):
                    await asyncio.sleep(0)
                world.steps.append("the message is sent")
                sent.set()
            elif event is Event.ASKED_COMMIT:
                while "a: migrate-continue" not in world.steps:  # noqa: ASYNC110 - no event tells of a step
                    await asyncio.sleep(0.001)
            return await ask(world.handovers, name, handover_id, event)

        async def commit_leaves(name: str) -> None:
            del name
            await sent.wait()

        monkeypatch.setattr(world.handovers, "ask", asked)
        monkeypatch.setattr(world.handovers, "commit_leaves", commit_leaves)
        migration = await run(world)
        assert migration is not None
        assert migration.moved
        if leaves:
            assert world.steps.index("the message is sent") < world.steps.index("a: migrate-continue")

    world_ask = FakeHandovers.ask
    asyncio.run(test())


def test_what_goes_on_record_while_the_guest_stands_still_begins_no_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        world = World(Fault.NOTHING, 0)
        noted: list[str] = []
        note = world.journal.note

        async def seen(*records: Record) -> None:
            noted.extend(each.state for each in records if isinstance(each, HandoverRecord))
            await note(*records)

        monkeypatch.setattr(world.journal, "note", seen)
        migration = await run(world)
        assert migration is not None
        assert migration.moved
        assert {"switching", "starting"} <= set(noted)
        assert not {"preparing", "opening", "copying", "moved"} & set(noted)

    asyncio.run(test())


def test_a_guest_that_ends_where_it_has_arrived_is_not_said_to_run() -> None:
    async def test() -> None:
        smooth = World(Fault.NOTHING, 0)
        await run(smooth)
        finish = smooth.steps.index(Event.ASKED_FINISH.value) + 1
        world = World(Fault.DESTINATION_QEMU, finish)
        migration = await run(world)
        assert migration is not None
        judge(world, migration)
        assert migration.moved
        assert "does not run" in now_of(migration)
        assert next_of(migration) == "start its QEMU on b"

    asyncio.run(test())


def test_an_error_that_nobody_foresaw_takes_the_guest_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        world = World(Fault.NOTHING, 0)

        async def fails(*_: object) -> str:
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr(phase_work, "copy_memory", fails)
        migration = await run(world)
        assert migration is not None
        assert migration.phase is Phase.STAYED
        assert migration.reason == "RuntimeError: nobody foresaw this"
        judge(world, migration)

    asyncio.run(test())


def test_a_guest_that_may_run_there_is_not_taken_back_because_the_source_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        world = World(Fault.NOTHING, 0)
        world.handovers.state_name = "committed"
        world.source.run_state, world.source.status = "postmigrate", "completed"
        world.destination.run_state, world.destination.status = "running", "completed"
        connect = FakeMonitors.connect
        failed: list[str] = []

        async def fails_once(monitors: FakeMonitors, guest: str) -> FakeMonitor:
            if monitors.qemu is world.source and not failed:
                failed.append(guest)
                raise QemuError("another client is connected to the monitor")
            return await connect(monitors, guest)

        monkeypatch.setattr(FakeMonitors, "connect", fails_once)
        job = world.job(msgspec.structs.replace(fresh(), phase=Phase.COPYING, sent=True))
        job.restart()
        while job.migration.phase not in (Phase.RETURNING, Phase.MOVED):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)
        assert failed
        assert job.migration.phase is Phase.MOVED
        await job.close()

    asyncio.run(test())


def test_a_guest_whose_handover_somebody_rolls_back_before_it_runs_there_goes_on_here() -> None:
    async def test() -> None:
        world = World(Fault.NOTHING, 0)
        job = world.job(fresh())
        job.start()
        await enters(job, Phase.STARTING)
        world.handovers.state_name = "stayed"
        async with asyncio.timeout(600):
            await job.ended()
        assert job.migration.phase is Phase.STAYED
        assert "somebody has rolled the handover back" in job.migration.reason
        assert world.source.run_state == "running"
        assert not world.destination.alive
        judge(world, job.migration)

    asyncio.run(test())


def test_a_journal_that_takes_records_again_is_no_problem_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        world = World(Fault.NOTHING, 0)
        put, problems = world.journal.put, ["there is no space"]

        async def refuses_once(*records: Record) -> None:
            if job.migration.phase is Phase.COPYING and problems:
                raise JournalError(Path("journal"), problems.pop(), "free some")
            await put(*records)

        monkeypatch.setattr(world.journal, "put", refuses_once)
        job = world.job(fresh())
        job.start()
        await enters(job, Phase.COPYING)
        while "a: migrate" not in world.steps:  # noqa: ASYNC110 - no event tells of each step
            await asyncio.sleep(0)
        assert not problems
        assert job.state().phase == "copying"
        assert job.state().problem == ""
        await job.ended()
        assert job.migration.phase is Phase.MOVED

    asyncio.run(test())


def test_it_is_cancelled_while_the_memory_is_copied_and_not_later() -> None:
    async def test() -> None:
        world = World(Fault.NOTHING, 0)
        job = world.job(fresh())
        job.start()
        await enters(job, Phase.COPYING)
        await job.cancel("somebody said so")
        await job.ended()
        assert job.state().phase == "stayed"
        assert job.migration.reason == "somebody said so"
        judge(world, job.migration)
        with pytest.raises(NotNow, match="is over"):
            await job.cancel("again")

        late = World(Fault.NOTHING, 0)
        job = late.job(fresh())
        job.start()
        await enters(job, Phase.SWITCHING)
        with pytest.raises(NotNow, match="it is too late to cancel"):
            await job.cancel("too late")
        await job.ended()
        assert job.state().phase == "moved"
        assert job.state().guest == GUEST

    asyncio.run(test())


def test_an_unforeseen_error_does_not_end_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that had ended would leave the guest where it stands, and nobody would say so."""

    async def test() -> None:
        world = World(Fault.NOTHING, 0)
        put, errors = world.journal.put, [RuntimeError("a flaw"), KeyError("another")]

        async def broken(*records: Record) -> None:
            if errors:
                raise errors.pop()
            await put(*records)

        monkeypatch.setattr(world.journal, "put", broken)
        migration = await run(world)
        assert not errors
        assert migration is not None
        assert not migration.is_open
        assert world.destination.run_state == "running"

    asyncio.run(test())
