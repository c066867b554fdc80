"""What an agent keeps of libvirt's guests: no answer without its record, and no record for ever."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock, patch

import msgspec
import pytest

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.attach.processes.libvirt_names import LibvirtNames
from holdover.agent.attach.processes.process import Process
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.libvirt import facts
from holdover.agent.libvirt.memory import GuestMemories, GuestMemory
from holdover.api.libvirt_documents import Ask, GuestQuestion
from holdover.config.agent_file import Limits
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.journal.journal import JournalError
from holdover.journal.records import Record
from holdover.libvirt.connection import LockClient
from holdover.libvirt.lock_protocol import Register
from holdover.scsi.command import Command
from tests.agent.hosts import GUEST, DyingJournal, Fate
from tests.agent.libvirt.lock_site import UUID, LockSite, lock_site
from tests.agent.libvirt.test_questions import A, B, on_loop


@pytest.fixture(autouse=True)
def incoming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every QEMU was started for a migration."""
    monkeypatch.setattr(facts, "is_incoming", lambda _: True)


@asynccontextmanager
async def begun(site: LockSite, host: str) -> AsyncGenerator[None, None]:
    """The process of the test stands for a QEMU of the guest that begins on a host, to which it migrates."""
    reader, writer = await asyncio.open_unix_connection(site.socket(host))
    client = LockClient()
    writer.write(client.call(Register(UUID, GUEST, 1, os.getpid())))
    replies = client.receive(await reader.read(65536))
    assert [reply.error for reply in replies] == [""]
    try:
        yield
    finally:
        writer.close()


def kept(site: LockSite, host: str) -> dict[str, GuestMemory]:
    """What is on disk of the guests of a host."""
    return GuestMemories(Path(site.san.configs[host].state_dir) / "libvirt.json").guests


@on_loop
async def test_what_cannot_be_put_on_record_is_not_granted(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as site, begun(site, A), begun(site, B):
        await site.stops(A)
        full = Path(site.san.configs[B].state_dir) / "libvirt.json.new"
        full.mkdir()  # no file can be written there
        assert "is not handed over" in await site.resumes(B)
        peer = site.san.peer(B, A)
        moving = (await site.san.clients[B].handover(GUEST)).handover_id
        full.rmdir()
        said = await peer.ask_about(
            GuestQuestion(ask=Ask.YIELD, guest=GUEST, uuid=str(UUID), handover_id=moving)
        )
        await peer.close()
        assert not said.granted


@on_loop
async def test_a_second_question_is_put_on_record_too(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as site, begun(site, A), begun(site, B):
        await site.stops(A)
        full = Path(site.san.configs[B].state_dir) / "libvirt.json.new"
        full.mkdir()
        assert "is not handed over" in await site.resumes(B)
        full.rmdir()
        assert await site.resumes(B) == ""
        assert kept(site, B)[GUEST].granted == (await site.san.clients[B].handover(GUEST)).handover_id


@on_loop
async def test_a_guest_that_no_host_has_is_not_here_before_that_is_on_record(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as site:
        await site.san.stop(A)
        site.san.configs[A] = msgspec.structs.replace(site.san.configs[A], guest=())
        site.san.journals[A] = DyingJournal()
        await site.san.start(A)

        async def refuses(*_: Record) -> None:
            raise JournalError(tmp_path / "journal", "there is no space", "free some")

        with patch.object(facts, "is_incoming", return_value=False):
            async with begun(site, B):
                with patch.object(site.san.journals[B], "put", refuses):
                    for _ in range(2):
                        assert "there is no space" in await site.resumes(B)
                assert (await site.san.clients[B].guest(GUEST)).devices[0].gate == "incoming"
                assert await site.resumes(B) == ""
                assert (await site.san.clients[B].guest(GUEST)).devices[0].gate == "running"


@on_loop
async def test_a_guest_that_goes_back_already_may_not_run(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as site, begun(site, A), begun(site, B):
        moving = (await site.san.clients[B].handover(GUEST)).handover_id
        await site.san.clients[A].commit(GUEST, moving)
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def hold_up(host: str, _: Command) -> Fate:
            if host == B:
                asked.set()
                await go_on.wait()
            return Fate.ANSWERED

        site.san.hook(hold_up)
        goes_back = asyncio.ensure_future(site.san.clients[A].roll_back(GUEST, moving))
        await asked.wait()
        assert (await site.san.clients[B].handover(GUEST)).state == "committed"
        with patch.object(facts, "is_incoming", return_value=False):  # a fresh one asks no source to commit
            assert await site.resumes(B) != ""
        go_on.set()
        assert (await goes_back).state == "stayed"


@on_loop
async def test_nothing_is_kept_of_guests_that_are_not_here(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as site:
        state = Path(site.san.configs[B].state_dir)
        await site.san.stop(B)
        ended = GuestMemories(state / "libvirt.json")
        ended.guests["web"] = GuestMemory(uuid=str(UUID), pid=1, boot="another boot")
        await ended.save()
        await site.san.start(B)
        peer = site.san.peer(B, A)
        for number in range(3):
            question = GuestQuestion(ask=Ask.HAS, guest=f"guest{number}", uuid="")
            assert not (await peer.ask_about(question)).has
        await peer.close()
        async with begun(site, B):
            assert list(kept(site, B)) == [GUEST]


def test_a_qemu_that_began_without_a_question_lives(tmp_path: Path) -> None:
    async def test() -> None:
        memory = GuestMemories(tmp_path / "libvirt.json")
        memory.of(GUEST).pid = 1  # of an earlier QEMU, which has ended
        process = Process(os.getpid(), lambda _: None)
        guest = HostedGuest(GUEST, A, MachineType.parse("pc-q35-10.2"), [], None, Limits())
        attached = Attached(guest, None, Gate.RUNNING, uuid=str(UUID), process=process)
        handovers, open_disks = Mock(), Mock()
        known = facts.Facts(
            {GUEST: guest}, handovers, lambda _: attached, memory, open_disks, LibvirtNames(), lambda _: None
        )
        assert await known.lives(GUEST, str(UUID))
        assert not await known.lives(GUEST, "another UUID")
        process.close()
        assert not await known.lives(GUEST, str(UUID))

    asyncio.run(test())


def test_a_write_that_nobody_waits_for_ends_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, goes_on = threading.Event(), threading.Event()
    writes: list[str] = []

    def write(_: Path, content: bytes) -> None:
        writes.append(f"begins {content.decode()}")
        begins.set()
        assert goes_on.wait(600)
        writes.append(f"ends {content.decode()}")

    async def test() -> None:
        monkeypatch.setattr("holdover.agent.state_file.replace_file", write)
        memory = GuestMemories(tmp_path / "libvirt.json")
        first = asyncio.ensure_future(memory.save())
        await asyncio.to_thread(begins.wait, 60)
        first.cancel()
        await asyncio.wait({first})
        second = asyncio.ensure_future(memory.save())
        for _ in range(20):
            await asyncio.sleep(0)
        assert writes == ["begins {}"]
        goes_on.set()
        await second
        assert writes == ["begins {}", "ends {}"] * 2

    asyncio.run(test())
