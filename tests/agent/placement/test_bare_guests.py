"""Guests that have registered nothing: a LUN does not show on which host such a guest is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.api.client import AgentRefused
from holdover.handover.states import ELSEWHERE, SourceState
from tests.agent.handover.test_trouble import QUICK, prepared
from tests.agent.hosts import GUEST, KEY, WRITE, San, san
from tests.agent.placement.test_cold_start import start
from tests.agent.placement.test_dead_hosts import ALIVE, DEAD, gate_becomes


async def stayed_alone(set_up: San) -> None:
    """The guest is committed to host-b, and host-a rolls back while host-b does not run."""
    await set_up.guest_on("host-a").must(WRITE)
    await prepared(set_up)
    source = set_up.clients["host-a"]
    await source.commit(GUEST, "h1")
    await set_up.stop("host-b")
    assert (await source.roll_back(GUEST, "h1", alone=True)).state == "stayed"


async def state_for_host_b(set_up: San) -> str:
    peer = set_up.peer("host-a", "host-b")
    try:
        return (await peer.peer_state("h1")).state
    finally:
        await peer.close()


def test_it_is_not_taken_if_it_has_registered_on_the_source_since(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await stayed_alone(set_up)
            await set_up.guest_on("host-a").register()
            await set_up.stop("host-a")
            await set_up.start("host-b")
            with pytest.raises(AgentRefused, match=f"key {KEY:#x} is registered, and was not when"):
                await set_up.clients["host-b"].take(GUEST, "h1")
            assert await set_up.registrants() == {"host-a": (KEY, False)}

    asyncio.run(test())


def test_a_third_node_that_registers_meanwhile_does_not_keep_it_from_being_taken(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await stayed_alone(set_up)
            await set_up.third().register(0x77)
            await set_up.stop("host-a")
            await set_up.start("host-b")
            assert (await set_up.clients["host-b"].take(GUEST, "h1")).state == "taken"

    asyncio.run(test())


def test_a_source_that_was_declared_dead_does_not_say_that_it_is_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await stayed_alone(set_up)
            assert await state_for_host_b(set_up) == SourceState.STAYED.value
            await set_up.stop("host-a")
            await set_up.start("host-b")
            operator = set_up.clients["host-b"]
            await operator.declare_host("host-a", DEAD)
            assert (await operator.take(GUEST, "h1")).state == "taken"
            await set_up.guest_on("host-b").register()
            await set_up.start("host-a")
            await gate_becomes(set_up, "host-a", "departed")
            assert await state_for_host_b(set_up) == ELSEWHERE
            await operator.declare_host("host-a", ALIVE)
            assert await state_for_host_b(set_up) == ELSEWHERE
            assert (await operator.finish(GUEST, "h1")).state == "here"
            await set_up.guest_on("host-b").must(WRITE)
            assert await set_up.registrants() == {"host-b": (KEY, False)}
            # it is found where it is
            with pytest.raises(AgentRefused, match="host-b"):
                await start(set_up, "host-a")

    asyncio.run(test())
