"""Handovers of which one side is dead: the source goes on alone, or the destination takes everything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.json import decode

from holdover.api.client import AgentRefused
from holdover.config.agent_file import Limits
from holdover.handover.protocol import Source
from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_out import out_command
from tests.agent.handover.moves import move, reserved
from tests.agent.handover.test_trouble import NEW, QUICK, WERO, prepared, still_here, until
from tests.agent.hosts import GUEST, KEY, WRITE, Fate, San, san


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


def test_one_command_rolls_back_without_a_destination_that_died_while_prepared(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await prepared_without(set_up, "host-b")
            state = await set_up.clients["host-a"].roll_back(GUEST, "h1", alone=True)
            assert state.state == "stayed"
            await still_here(set_up)

    asyncio.run(test())


def test_a_roll_back_without_the_destination_waits_for_a_recheck(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits(connect=2, step=60, drain=2, peer=3, give_up=1, recheck=0.2)
        async with san(tmp_path, limits=limits) as set_up:
            looks, goes_on = asyncio.Event(), asyncio.Event()

            async def hook(name: str, command: Command) -> Fate:
                if name == "host-a" and command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
                    looks.set()
                    await goes_on.wait()
                return Fate.ANSWERED

            await prepared_without(set_up, "host-b")
            set_up.hook(hook)
            await looks.wait()
            client = set_up.clients["host-a"]
            asked = asyncio.create_task(client.roll_back(GUEST, "h1", alone=True))
            await client.guest(GUEST)  # the agent has taken the request before this one
            goes_on.set()
            assert (await asked).state == "stayed"

    asyncio.run(test())


def test_one_command_rolls_back_without_a_destination_that_died_after_the_commit(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await prepared(set_up)
            await set_up.clients["host-a"].commit(GUEST, "h1")
            await set_up.stop("host-b")
            state = await set_up.clients["host-a"].roll_back(GUEST, "h1", alone=True)
            assert state.state == "stayed"
            await still_here(set_up)

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
            assert (await set_up.clients["host-a"].guest(GUEST)).devices[0].key is None
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


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_destination_that_died_while_it_took_does_not_take_a_fence_for_its_own_end(
    tmp_path: Path, comes_back: bool
) -> None:
    """Another node fences the guest meanwhile; an operator or the source says that this is the end of it."""

    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            third = set_up.third()
            await third.register(NEW, aptpl=True)
            await prepared_without(set_up, "host-a")
            await dies_while_it_takes(set_up)
            await third.must(out_command(OutServiceAction.PREEMPT, NEW, KEY, type=WERO))
            await set_up.start("host-b")
            client = set_up.clients["host-b"]
            await until(set_up, "host-b", lambda state: state.state == "interrupted")
            with pytest.raises(AgentRefused, match="this host's registration is gone") as refused:
                await client.take(GUEST, "h1")
            assert refused.value.problem.in_doubt
            assert (await client.guest(GUEST)).devices[0].gate == "incoming"
            if comes_back:
                await set_up.start("host-a")
                await until(set_up, "host-a", lambda state: not state.open)
            else:
                assert (await client.finish(GUEST, "h1")).state == "here"
            assert (await client.handover(GUEST)).state == "here"
            assert (await client.guest(GUEST)).devices[0].key is None
            assert await set_up.registrants() == {"third": (NEW, True)}

    asyncio.run(test())


def test_a_destination_that_died_while_it_took_hears_of_a_roll_back_without_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await prepared_without(set_up, "host-a")
            await dies_while_it_takes(set_up)
            await set_up.start("host-a")
            assert (await set_up.clients["host-a"].roll_back(GUEST, "h1", alone=True)).state == "stayed"
            await set_up.start("host-b")
            state = await until(set_up, "host-b", lambda state: not state.open)
            assert state.state == "returned"
            await still_here(set_up)

    asyncio.run(test())


async def dies_while_it_takes(set_up: San) -> None:
    """The destination's agent dies when "taking" is on record, before it has sent anything."""
    journal = set_up.journals["host-b"]
    journal.arm(2, after=True)
    asked = asyncio.create_task(set_up.clients["host-b"].take(GUEST, "h1"))
    await journal.dead.wait()
    await set_up.stop("host-b")
    await asyncio.gather(asked, return_exceptions=True)
    assert journal.steps("h1")[-1].state == "taking"
    journal.arm(0, after=True)
