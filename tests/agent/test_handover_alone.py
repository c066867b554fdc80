"""Handovers of which one side is dead: the source goes on alone, or the destination takes everything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.json import decode

from holdover.agent.client import AgentRefused
from holdover.handover.protocol import Source
from holdover.scsi.opcodes import OutServiceAction
from holdover.scsi.reservation_out import out_command
from tests.agent.hosts import GUEST, KEY, WRITE, San, san
from tests.agent.test_handover_trouble import NEW, QUICK, WERO, prepared, still_here, until
from tests.agent.test_handovers import move, reserved


async def prepared_without(set_up: San, dead: str) -> None:
    """The guest has its reservation and is prepared to go; then one host dies."""
    await reserved(set_up)
    await prepared(set_up)
    await set_up.stop(dead)


def test_a_destination_that_dies_at_commit_is_evicted(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await prepared_without(set_up, "host-b")
            client = set_up.clients["host-a"]
            with pytest.raises(AgentRefused) as refused:
                await client.commit(GUEST, "h1")
            assert (refused.value.problem.state, refused.value.problem.in_doubt) == ("stayed", False)
            await still_here(set_up)
            await set_up.start("host-b")
            # it asks, and hears that it is over
            await until(set_up, "host-b", lambda state: not state.open)
            await still_here(set_up)
            await move(set_up, name="h2")

    asyncio.run(test())


def test_a_shared_key_is_not_evicted_without_being_asked(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await set_up.third().register(aptpl=True)
            await prepared_without(set_up, "host-b")
            client = set_up.clients["host-a"]
            with pytest.raises(AgentRefused) as refused:
                await client.commit(GUEST, "h1")
            assert (refused.value.problem.state, refused.value.problem.in_doubt) == ("closing", True)
            assert (await client.guest(GUEST)).handover_problem
            await set_up.start("host-b")
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            assert await set_up.registrants() == {"third": (KEY, False), "host-a": (KEY, True)}

    asyncio.run(test())


def test_the_destination_takes_everything_when_the_source_is_dead(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await prepared_without(set_up, "host-a")
            client = set_up.clients["host-b"]
            assert (await client.take(GUEST, "h1")).state == "taken"
            assert await set_up.registrants() == {"host-b": (KEY, True)}
            await set_up.guest_on("host-b").must(WRITE)
            assert (await client.take(GUEST, "h1")).state == "taken"
            # the source comes back, and hears of it before it does anything
            await set_up.start("host-a")
            with pytest.raises(AgentRefused):
                await set_up.clients["host-a"].roll_back(GUEST, "h1")
            await until(set_up, "host-a", lambda state: not state.open)
            assert (await set_up.clients["host-a"].handover(GUEST)).state == "gone"
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}
            assert (await set_up.clients["host-a"].guest(GUEST)).devices[0].key == 0
            assert await set_up.registrants() == {"host-b": (KEY, True)}

    asyncio.run(test())


def test_a_source_that_comes_back_leaves_nothing_where_the_guest_was_fenced_meanwhile(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            third = set_up.third()
            await third.register(NEW, aptpl=True)
            await prepared_without(set_up, "host-a")
            assert (await set_up.clients["host-b"].take(GUEST, "h1")).state == "taken"
            await third.must(out_command(OutServiceAction.PREEMPT, NEW, KEY, type=WERO))
            await third.must(out_command(OutServiceAction.RELEASE, NEW, type=WERO))
            # what it leaves if it dies while it evicts the destination
            spare = decode(set_up.journals["host-a"].steps("h1")[-1].body, type=Source).luns[0].source_spare
            left = set_up.nexus_of("host-a")
            await left.register(spare, aptpl=True)
            await left.reserve(WERO, spare)
            assert await set_up.registrants() == {"host-a": (spare, True), "third": (NEW, False)}
            await set_up.start("host-a")
            state = await until(set_up, "host-a", lambda state: not state.open)
            assert state.state == "gone"
            assert await set_up.registrants() == {"third": (NEW, False)}
            assert set_up.luns[0].state.aptpl
            states = [step.state for step in set_up.journals["host-a"].steps("h1")]
            assert states[-3:] == ["conceding", "yielding", "gone"]

    asyncio.run(test())


def test_what_was_taken_is_finished_without_the_source(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await prepared(set_up)
            client = set_up.clients["host-b"]
            with pytest.raises(AgentRefused, match="finish: the handover is prepared"):
                await client.finish(GUEST, "h1")
            with pytest.raises(
                AgentRefused, match="host-b is the destination of handover h1; ask the source"
            ):
                await client.commit(GUEST, "h1")
            await set_up.stop("host-a")
            await client.take(GUEST, "h1")
            assert (await client.finish(GUEST, "h1")).state == "here"
            assert not (await client.handover(GUEST)).open

    asyncio.run(test())
