"""What becomes of the reservation after an event of QEMU: agents, LUN and sockets are real."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdover.agent.libvirt.qemu_events import QemuEvents
from holdover.api.libvirt_documents import GuestAnswer, GuestQuestion
from holdover.libvirt.policy import Seen
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command
from tests.agent.hosts import GUEST, KEY, Fate
from tests.agent.libvirt.lock_site import UUID, LockSite
from tests.agent.libvirt.test_questions import A, B, holder, on_loop, running


class Running(QemuEvents):
    """libvirt says of each guest whether it runs."""

    def __init__(self, *, runs: bool) -> None:
        super().__init__("", lambda *_: None)
        self._said = runs

    async def runs(self, guest: str) -> bool:
        return self._said


def hears(site: LockSite, host: str, seen: Seen, *, runs: bool = True) -> None:
    """The agent of a host hears an event; then libvirt says whether the guest runs there."""
    arbiter = site.san.hosts[host].libvirt.arbiter
    arbiter.events = Running(runs=runs)
    arbiter.observed(GUEST, str(UUID), seen)


@on_loop
async def test_the_source_commits_at_pre_switchover_and_the_destination_is_answered_at_once(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as (site, qemu):
        assert (await site.begin(B, incoming=True)).refused == ""
        await site.stops(A)
        hears(site, A, Seen.PRE_SWITCHOVER)
        await site.reaches(A, "committed")
        assert await holder(site) == B
        assert await site.resumes(B) == ""
        await qemu.end()
        await site.reaches(A, "gone")
        assert await holder(site) == B


@on_loop
async def test_a_question_that_comes_while_the_source_commits_gets_the_same_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        await site.begin(B, incoming=True)
        await site.stops(A)
        reached, hold = asyncio.Event(), asyncio.Event()
        preempts: list[str] = []

        async def slow(host: str, command: Command) -> Fate:
            if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
                preempts.append(host)
                reached.set()
                await hold.wait()
            return Fate.ANSWERED

        site.san.hook(slow)
        hears(site, A, Seen.PRE_SWITCHOVER)
        await reached.wait()
        arbiter, asked = site.san.hosts[A].libvirt.arbiter, asyncio.Event()
        answer = arbiter.asked

        async def notes(question: GuestQuestion, sender: str) -> GuestAnswer:
            asked.set()
            return await answer(question, sender)

        arbiter.asked = notes  # type: ignore[method-assign]
        asking = asyncio.ensure_future(site.resumes(B))
        await asked.wait()
        hold.set()
        assert await asking == ""
        assert await holder(site) == B
        assert len(preempts) == 1


@on_loop
async def test_an_event_before_libvirt_says_that_the_guest_has_stopped_changes_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as (site, _):
        await site.begin(B, incoming=True)
        for seen in Seen:
            hears(site, A, seen)
        await site.stops(A)
        assert await site.state(A) == "prepared"
        assert (await site.san.registrants())[A] == (KEY, True)


@on_loop
async def test_a_guest_that_qemu_resumes_by_itself_gets_its_reservation_back(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        await site.begin(B, incoming=True)
        await site.stops(A)
        hears(site, A, Seen.PRE_SWITCHOVER)
        await site.reaches(A, "committed")
        hears(site, A, Seen.RUNS)
        await site.reaches(A, "stayed")
        assert await holder(site) == A
        assert (await site.san.gates())[A] == "running"
        assert "host-a" in await site.resumes(B)


@on_loop
async def test_a_resume_that_is_out_of_date_takes_nothing_back(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, _):
        await site.begin(B, incoming=True)
        await site.stops(A)
        hears(site, A, Seen.PRE_SWITCHOVER)
        await site.reaches(A, "committed")
        hears(site, A, Seen.RUNS, runs=False)
        assert await site.resumes(B) == ""
        assert await holder(site) == B
        # the guest runs there: this host asks, and takes nothing back
        hears(site, A, Seen.RUNS)
        assert "runs on host-b" in await site.resumes(A)
        assert await holder(site) == B


@on_loop
async def test_a_fresh_qemu_does_not_run_while_the_one_on_the_source_lives(tmp_path: Path) -> None:
    async with running(tmp_path) as (site, qemu):
        await site.begin(B, incoming=True)
        await site.stops(A)
        hears(site, A, Seen.PRE_SWITCHOVER)
        await site.reaches(A, "committed")
        # to the agent this is a QEMU of its own, and no arrival
        assert (await site.begin(B)).refused == ""
        assert "runs on host-a" in await site.resumes(B)
        await qemu.end()
        assert await site.resumes(B) == ""
        assert await holder(site) == B
