"""What libvirt is answered, and what becomes of the reservation: agents, LUN and sockets are real."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from holdover.scsi.cdbs.opcodes import OperationCode, ReservationType
from holdover.scsi.command import Command
from tests.agent.certified import within
from tests.agent.hosts import KEY, WRITE, DyingJournal, Fate
from tests.agent.libvirt.lock_site import LockSite, Qemu, lock_site

A, B = "host-a", "host-b"


@asynccontextmanager
async def running(folder: Path, **settings: float) -> AsyncGenerator[tuple[LockSite, Qemu], None]:
    """The guest runs on the first host and holds a reservation."""
    async with lock_site(folder, settings=settings) as site:
        yield site, await reserved(site)


async def reserved(site: LockSite) -> Qemu:
    """The guest starts on the first host and reserves."""
    qemu = await site.begin(A)
    assert qemu.refused == ""
    assert await site.resumes(A) == ""
    guest = site.san.guest_on(A)
    await guest.register()
    await guest.reserve(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
    return qemu


def on_loop(test: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    """Run a test on the loop that agents have; only one that hangs reaches the limit."""

    def run(tmp_path: Path) -> None:
        within(600, lambda: test(tmp_path))

    return run


async def holder(site: LockSite) -> str:
    """The only host that is registered on the LUN; it holds the reservation by the guest's key."""
    found = await site.san.registrants()
    assert list(found.values()) == [(KEY, True)], found
    return next(iter(found))


@on_loop
async def test_a_guest_that_nobody_knows_begins_and_runs(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as site:
        assert (await site.begin(A, name="web")).refused == ""
        assert await site.ask(A, name="web") == ""


@on_loop
async def test_a_migration_takes_the_reservation_along_and_back(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, qemu):
        leaves = qemu
        for source, destination in ((A, B), (B, A), (A, B)):
            arrives = await site.begin(destination, incoming=True)
            assert arrives.refused == ""
            assert await site.state(source) == "prepared"
            # a guest without lockable disks: libvirt says neither that it stops nor that it goes on
            assert await site.ask(source) == ""
            assert await site.ask(destination) == ""
            assert await holder(site) == destination
            await leaves.end()
            await site.reaches(source, "gone")
            assert (await site.san.gates())[destination] == "running"
            # pausing and going on there is nobody else's business
            await site.stops(destination)
            assert await site.resumes(destination) == ""
            leaves = arrives


@on_loop
async def test_a_destination_that_ends_before_it_runs_gives_back(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        arrives = await site.begin(B, incoming=True)
        await site.stops(A)
        await arrives.end()
        await site.reaches(A, "stayed")
        assert await holder(site) == A
        assert await site.resumes(A) == ""


@on_loop
async def test_what_was_committed_and_never_ran_there_comes_home(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        arrives = await site.begin(B, incoming=True)
        await site.stops(A)
        moving = await site.san.clients[A].handover("db1")
        await site.san.clients[A].commit("db1", moving.handover_id)
        assert await holder(site) == B
        # libvirt on the source wants it back while the QEMU on the destination still lives
        assert await site.resumes(A) == ""
        assert await holder(site) == A
        refused = await site.resumes(B)
        assert "host-a" in refused
        await arrives.end()
        assert (await site.san.gates())[A] == "running"


@on_loop
async def test_the_source_is_refused_while_the_guest_runs_on_the_destination(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        arrives = await site.begin(B, incoming=True)
        await site.stops(A)
        assert await site.resumes(B) == ""
        for _ in range(2):
            assert "runs on host-b" in await site.resumes(A)
        assert await holder(site) == B
        # the guest dies there: the source may have it again
        await arrives.end()
        assert await site.resumes(A) == ""
        assert await holder(site) == A


@on_loop
async def test_without_the_destination_the_source_is_in_doubt(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        await site.begin(B, incoming=True)
        await site.stops(A)
        assert await site.resumes(B) == ""
        await site.san.stop(B)
        refused = await site.resumes(A)
        assert "in doubt" in refused
        assert "host-b" in refused


@on_loop
async def test_a_source_that_has_not_stopped_or_goes_on_commits_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        await site.begin(B, incoming=True)
        assert "has not told" in await site.resumes(B)
        await site.stops(A)
        assert await site.resumes(A) == ""
        assert "has not told" in await site.resumes(B)
        assert (await site.san.registrants())[A] == (KEY, True)
        # a guest without lockable disks asks in one way before it runs and after it stops
        assert await site.ask(A) == ""
        assert await site.ask(B) == ""
        assert await holder(site) == B


@on_loop
async def test_a_guest_that_is_off_starts_on_another_host_with_its_reservation(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, qemu):
        await qemu.end()
        fresh = await site.begin(B)
        assert fresh.refused == ""
        assert await site.resumes(B) == ""
        assert await holder(site) == B
        await site.reaches(A, "gone")
        again = await site.begin(A)
        assert again.refused == ""
        assert "runs on host-b" in await site.resumes(A)


@on_loop
async def test_a_guest_does_not_start_on_two_hosts(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        second = await site.begin(B)
        assert second.refused == ""
        assert "runs on host-a" in await site.resumes(B)
        await second.end()
        await site.reaches(A, "stayed")
        assert await holder(site) == A


@on_loop
async def test_agents_that_were_restarted_know_what_they_have_said(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, qemu):
        await site.begin(B, incoming=True)
        await site.stops(A)
        assert await site.resumes(B) == ""
        for host in (A, B):
            await site.san.stop(host)
            await site.san.start(host)
        assert "runs on host-b" in await site.resumes(A)
        await site.san.stop(A)
        await qemu.end()
        await site.san.start(A)
        await site.reaches(A, "gone")
        assert await holder(site) == B


@on_loop
async def test_a_question_that_nobody_waits_for_lets_nothing_run(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        arrives = await site.begin(B, incoming=True)
        await site.stops(A)
        await arrives.end()
        await site.hang_up(B)
        await site.reaches(A, "stayed")
        assert await site.resumes(A) == ""
        assert await holder(site) == A


@on_loop
async def test_a_user_that_is_not_libvirtd_is_not_answered(tmp_path: Path) -> None:
    async with lock_site(tmp_path, settings={"uid": os.getuid() + 1}) as site:
        with pytest.raises((AssertionError, OSError)):
            await site.ask(A)


@on_loop
async def test_clients_that_break_the_protocol_disturb_nobody(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as site:
        for rubbish in (b"\xff" * 4, b"GET / HTTP/1.0\r\n\r\n", os.urandom(400)):
            reader, writer = await asyncio.open_unix_connection(site.socket(A))
            writer.write(rubbish)
            writer.write_eof()
            await reader.read()
            writer.close()
        assert await site.ask(A, name="web") == ""


@on_loop
async def test_a_guest_whose_host_is_dead_does_not_start_elsewhere(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        await site.san.stop(A)
        fresh = await site.begin(B)
        assert "in doubt" in fresh.refused
        assert A in fresh.refused


@on_loop
async def test_a_guest_that_is_expected_and_that_no_host_has_starts_where_it_is_started(
    tmp_path: Path,
) -> None:
    async with lock_site(tmp_path) as site:
        await site.san.stop(A)
        site.san.configs[A] = msgspec.structs.replace(site.san.configs[A], guest=())
        site.san.journals[A] = DyingJournal()
        await site.san.start(A)
        assert (await site.begin(B)).refused == ""
        assert await site.resumes(B) == ""
        await site.san.guest_on(B).must(WRITE)
        # the agent knows that it runs here, after a restart too
        await site.san.stop(B)
        await site.san.start(B)
        assert (await site.san.clients[B].guest("db1")).devices[0].gate == "running"


@on_loop
async def test_a_migration_that_no_host_knows_of_is_refused(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as site:
        await site.san.stop(A)
        site.san.configs[A] = msgspec.structs.replace(site.san.configs[A], guest=())
        site.san.journals[A] = DyingJournal()
        await site.san.start(A)
        assert (await site.begin(B, incoming=True)).refused == ""
        assert "no agent with its reservations knows of this migration" in await site.resumes(B)
        assert (await site.san.clients[B].guest("db1")).devices[0].gate == "incoming"


@on_loop
async def test_a_commit_that_takes_too_long_is_refused_in_time_and_comes_home(tmp_path: Path) -> None:
    async with running(tmp_path, answer_within=2.0) as (site, _):
        arrives = await site.begin(B, incoming=True)
        await site.stops(A)
        hold = asyncio.Event()

        async def slow(_: str, command: Command) -> Fate:
            if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
                await hold.wait()
            return Fate.ANSWERED

        site.san.hook(slow)
        assert "longer than 2 s" in await site.resumes(B)
        # the source's agent commits all the same, once the LUN answers
        hold.set()
        site.san.hook(None)
        await arrives.end()
        await site.reaches(A, "stayed")
        assert await site.resumes(A) == ""
        assert await holder(site) == A
