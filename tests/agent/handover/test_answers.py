"""What is said of a handover is what is on record."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.api.client import AgentRefused
from holdover.config.agent_file import Limits
from holdover.journal.journal import JournalError
from holdover.journal.records import HandoverRecord, Record
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, San, san

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=0.2)


def refuse(
    set_up: San, host: str, state: str, until: asyncio.Event, monkeypatch: pytest.MonkeyPatch, *, loudly: bool
) -> asyncio.Event:
    """The journal of ``host`` does not take ``state`` before ``until``; gives: it was asked to."""
    journal = set_up.journals[host]
    put, asked = journal.put, asyncio.Event()

    async def instead(*records: Record) -> None:
        if not until.is_set() and any(
            isinstance(each, HandoverRecord) and each.state == state for each in records
        ):
            asked.set()
            if loudly:
                raise JournalError(Path("journal"), "the disk is full", "make room")
            await until.wait()
        await put(*records)

    monkeypatch.setattr(journal, "put", instead)
    return asked


@pytest.mark.parametrize("host", ["host-a", "host-b"])
def test_a_state_is_shown_when_it_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            until = asyncio.Event()
            asked = refuse(set_up, host, "committed", until, monkeypatch, loudly=False)
            committing = asyncio.create_task(client.commit(GUEST, "h1"))
            await asked.wait()
            steps = set_up.journals[host].steps("h1")
            shown = await set_up.clients[host].handover(GUEST)
            assert shown.state == steps[-1].state != "committed"
            assert shown.in_doubt
            until.set()
            assert (await committing).state == "committed"
            assert (await set_up.clients[host].handover(GUEST)).state == "committed"

    asyncio.run(test())


def test_a_journal_that_refuses_puts_nothing_in_doubt_that_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            assert not (await client.handover(GUEST)).in_doubt
            before = await set_up.registrants()
            until = asyncio.Event()
            refuse(set_up, "host-a", "leaving", until, monkeypatch, loudly=True)
            with pytest.raises(AgentRefused, match="disk is full") as refused:
                await client.commit(GUEST, "h1")
            assert not refused.value.problem.in_doubt
            assert refused.value.problem.state == "prepared"
            shown = await client.handover(GUEST)
            assert not shown.in_doubt
            assert "disk is full" in shown.problem
            # what is on record is what is true: nothing was sent
            assert await set_up.registrants() == before
            until.set()
            assert (await client.commit(GUEST, "h1")).state == "committed"

    asyncio.run(test())
