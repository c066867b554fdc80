"""A guest that was shut down on one host is started on another: its reservations come along."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from holdover.agent.placement.claims import Claims
from holdover.api.client import AgentRefused
from holdover.api.migration_documents import GuestStarted, SendRequest, StartRequest
from holdover.guest.gate import Gate
from holdover.journal.journal import JournalError
from holdover.placement.claim import Said
from holdover.scsi.cdbs.opcodes import OperationCode, ReservationType
from holdover.scsi.command import Command
from tests.agent.hosts import GUEST, KEY, WRITE, Fate, Hook, Initiator, San, san

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


async def start(set_up: San, host: str, *without: str) -> GuestStarted:
    request = StartRequest(handover_id=f"cold-{host}", without=without)
    return await set_up.clients[host].start_guest(GUEST, request)


async def shut_down(set_up: San, host: str) -> None:
    """The guest's QEMU ends: its sessions at the export are closed."""
    await set_up.log_out("qemu")
    while set_up.hosts[host].guests[GUEST].state().sessions:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0)


def unanswered(opcode: OperationCode) -> Hook:
    """The LUN does not answer commands with this operation code."""

    async def hook(_: str, command: Command) -> Fate:
        return Fate.LOST if command.opcode == opcode else Fate.ANSWERED

    return hook


async def give_up(set_up: San) -> None:
    """No host has the guest, as if the journal of the one that had it were lost."""
    for host in set_up.hosts.values():
        host.guests[GUEST].move_gates(Gate.INCOMING)


@pytest.mark.parametrize("had", ["held", "registered", "nothing"])
def test_what_the_guest_had_comes_along(tmp_path: Path, had: str) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = set_up.guest_on("host-a")
            await guest.must(WRITE)
            if had != "nothing":
                await guest.register()
            if had == "held":
                await guest.reserve(WERO)
            before = await set_up.registrants()
            await shut_down(set_up, "host-a")
            started = await start(set_up, "host-b")
            assert started.came_from == "host-a"
            assert await set_up.registrants() == dict.fromkeys(
                ["host-b"] if before else [], (KEY, had == "held")
            )
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}
            here: Initiator = set_up.guest_on("host-b")
            await here.must(WRITE)
            # once more changes nothing
            again = await start(set_up, "host-b")
            assert "is on host-b already" in again.text

    asyncio.run(test())


@pytest.mark.provokes("runs-elsewhere")
def test_a_guest_that_runs_is_not_fetched(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = set_up.guest_on("host-a")
            await guest.register()
            with pytest.raises(
                AgentRefused, match=r"guest db1 runs on host-a: .* is logged in to its export"
            ):
                await start(set_up, "host-b")
            assert await set_up.registrants() == {"host-a": (KEY, False)}
            assert (await set_up.gates())["host-a"] == "running"

    asyncio.run(test())


def test_no_peer_ends_a_handover_to_another_one(tmp_path: Path) -> None:
    async def test() -> None:
        hosts = ("host-a", "host-b", "host-c")
        async with san(tmp_path, hosts=hosts, migrate_pr=["on"] * 3) as set_up:
            await set_up.guest_on("host-a").register()
            await shut_down(set_up, "host-a")
            operator = set_up.clients["host-a"]
            assert (await operator.prepare(GUEST, "h1", "host-c")).state == "prepared"
            peer = set_up.peer("host-a", "host-b")
            with pytest.raises(AgentRefused, match="handover h1 goes to host-c, not to host-b"):
                await peer.send_guest(SendRequest(guest=GUEST, handover_id="h1"))
            await peer.close()
            with pytest.raises(AgentRefused, match="handover h1 goes to host-c, not to host-b"):
                await operator.prepare(GUEST, "h1", "host-b")
            assert (await operator.handover(GUEST)).state == "prepared"

    asyncio.run(test())


def test_a_host_that_does_not_answer_may_have_the_guest(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = set_up.guest_on("host-a")
            await guest.register()
            await shut_down(set_up, "host-a")
            await set_up.stop("host-a")
            with pytest.raises(AgentRefused, match=r"then: holdover host declare-dead host-a"):
                await start(set_up, "host-b")
            with pytest.raises(AgentRefused, match=r"host-b has no \[\[peer\]\] 'host-z'"):
                await start(set_up, "host-b", "host-z")

    asyncio.run(test())


def test_a_guest_that_nobody_has_is_started_where_it_is_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await give_up(set_up)
            assert await set_up.gates() == {"host-a": "incoming", "host-b": "incoming"}
            started = await start(set_up, "host-b")
            assert (started.came_from, started.host) == ("", "host-b")
            await set_up.guest_on("host-b").must(WRITE)
            # it is on record
            await set_up.stop("host-b")
            await set_up.start("host-b")
            assert (await set_up.gates())["host-b"] == "running"

    asyncio.run(test())


@contextmanager
def all_have_asked(hosts: int) -> Iterator[None]:
    """Nobody goes on from its first question to the peers before as many hosts have asked theirs."""
    asked, ask = asyncio.Barrier(hosts), Claims.ask

    async def ask_and_wait(self: Claims, guest: str, *, claims: bool = False) -> dict[str, Said]:
        said = await ask(self, guest, claims=claims)
        if not claims:
            await asked.wait()
        return said

    with patch.object(Claims, "ask", ask_and_wait):
        yield


def test_two_hosts_that_start_a_guest_at_once_do_not_both_get_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await give_up(set_up)
            with all_have_asked(2):
                done = await asyncio.gather(
                    start(set_up, "host-a"), start(set_up, "host-b"), return_exceptions=True
                )
            assert sorted((await set_up.gates()).values()) == ["incoming", "running"]
            refused = [each for each in done if isinstance(each, AgentRefused)]
            assert len(refused) == 1
            # once more, it is found where it is
            for host in set_up.hosts:
                await start(set_up, host)
            assert sorted((await set_up.gates()).values()) == ["departed", "running"]

    asyncio.run(test())


def test_a_journal_or_lun_that_refuses_keeps_the_gate_shut(tmp_path: Path) -> None:
    async def refuses(*_: object) -> None:
        raise JournalError(tmp_path / "journal", "there is no space", "free some")

    async def test() -> None:
        async with san(tmp_path, step=1.0) as set_up:
            await give_up(set_up)
            with (
                patch.object(set_up.journals["host-b"], "put", refuses),
                pytest.raises(AgentRefused, match=r"there is no space.*its gate stays incoming"),
            ):
                await start(set_up, "host-b")
            set_up.hook(unanswered(OperationCode.INQUIRY))
            with pytest.raises(AgentRefused, match="its gate stays incoming"):
                await start(set_up, "host-b")
            assert await set_up.gates() == {"host-a": "incoming", "host-b": "incoming"}
            # now the LUN says which one it is, and not what the guest has: that is read later
            set_up.hook(unanswered(OperationCode.PERSISTENT_RESERVE_IN))
            started = await start(set_up, "host-b")
            assert "could not be read and counts as stale" in started.text
            assert (await set_up.gates())["host-b"] == "running"
            set_up.hook(None)

    asyncio.run(test())
