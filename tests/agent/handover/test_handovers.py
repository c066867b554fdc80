"""Handovers between two agents over real sockets: what is there before is there after, on the other host."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.api.client import AgentClient, AgentRefused
from holdover.api.documents import PeerState
from holdover.scsi.cdbs.opcodes import ReservationType
from tests.agent.handover.moves import WERO, each_type, move, reserved
from tests.agent.hosts import GUEST, KEY, WRITE, san


def test_a_third_node_with_another_key_is_not_touched(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.third().register(0xBEEF)
            await reserved(set_up)
            await move(set_up)
            assert await set_up.registrants() == {"third": (0xBEEF, False), "host-b": (KEY, True)}

    asyncio.run(test())


def test_a_registrant_of_somebody_elses_reservation_stays_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            third = set_up.third()
            await third.register(0xBEEF)
            await third.reserve(WERO, 0xBEEF)
            await set_up.guest_on("host-a").register()
            await move(set_up)
            assert await set_up.registrants() == {"third": (0xBEEF, True), "host-b": (KEY, False)}
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


def test_a_guest_that_has_sent_nothing_yet_moves_and_stays_and_is_found_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=0) as set_up:
            client = set_up.clients["host-a"]
            assert (await client.prepare(GUEST, "h0", set_up.apis["host-b"])).state == "prepared"
            assert (await client.roll_back(GUEST, "h0")).state == "stayed"
            assert (await client.prepare(GUEST, "h1", set_up.apis["host-b"])).state == "prepared"
            for host in ("host-a", "host-b"):
                await set_up.stop(host)
                await set_up.start(host)
            assert (await client.commit(GUEST, "h1")).state == "committed"
            assert (await client.finish(GUEST, "h1")).state == "gone"

    asyncio.run(test())


def test_what_is_repeated_is_answered_the_same(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            client, to = set_up.clients["host-a"], set_up.apis["host-b"]
            first, second = await asyncio.gather(
                client.prepare(GUEST, "h1", to), client.prepare(GUEST, "h1", to)
            )
            assert (first.state, first.luns) == (second.state, second.luns)
            await client.commit(GUEST, "h1")
            assert (await client.commit(GUEST, "h1")).state == "committed"
            await client.finish(GUEST, "h1")
            assert (await client.finish(GUEST, "h1")).state == "gone"
            with pytest.raises(AgentRefused, match="h1") as refused:
                await client.prepare(GUEST, "h1", to)
            assert refused.value.problem.state == "gone"
            assert await set_up.registrants() == {"host-b": (KEY, True)}

    asyncio.run(test())


def test_commit_twice_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            both = await asyncio.gather(client.commit(GUEST, "h1"), client.commit(GUEST, "h1"))
            assert [each.state for each in both] == ["committed", "committed"]

    asyncio.run(test())


def test_a_second_handover_names_the_one_that_is_open(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            client, to = set_up.clients["host-a"], set_up.apis["host-b"]
            await client.prepare(GUEST, "h1", to)
            with pytest.raises(AgentRefused, match="handover h1 of this guest is under way on host-a"):
                await client.prepare(GUEST, "h2", to)
            with pytest.raises(AgentRefused, match="h2 is not under way"):
                await client.commit(GUEST, "h2")
            await client.roll_back(GUEST, "h1")
            await move(set_up, name="h2")

    asyncio.run(test())


@each_type
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("stage", ["prepared", "committed"])
def test_rolling_back_leaves_everything_as_it_was(
    tmp_path: Path, kind: ReservationType, stage: str, shared: bool
) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            if shared:
                await set_up.third().register(aptpl=True)
            await reserved(set_up, kind)
            before = await set_up.registrants()
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            if stage == "committed":
                await client.commit(GUEST, "h1")
                assert "host-b" in await set_up.registrants()
            state = await client.roll_back(GUEST, "h1")
            assert (state.state, state.open) == ("stayed", False)
            assert await set_up.registrants() == before
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            await set_up.guest_on("host-a").must(WRITE)
            assert await set_up.gates() == {"host-a": "running", "host-b": "incoming"}
            await move(set_up, name="h2")
            assert (await set_up.registrants())["host-b"] == (KEY, True)

    asyncio.run(test())


def test_commands_wait_while_it_is_committed_and_pass_when_the_guest_stays(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.commit(GUEST, "h1")
            write = asyncio.create_task(set_up.guest_on("host-a").tell(WRITE))
            state = await client.guest(GUEST)
            while state.devices[0].held == 0:
                state = await client.guest(GUEST)
            assert (state.devices[0].gate, state.handover_id, state.handover_state) == (
                "leaving",
                "h1",
                "committed",
            )
            await client.roll_back(GUEST, "h1")
            assert (await write).good

    asyncio.run(test())


def test_what_took_how_long_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            await move(set_up)
            here, there = [await client.handover(GUEST) for client in set_up.clients.values()]
            names = {span.name for span in here.spans}
            assert {"state prepared", "message commit", "work confirm", "READ KEYS", "journal"} <= names
            assert {"work preempt", "PREEMPT", "REGISTER", "journal"} <= {span.name for span in there.spans}
            for span in (*here.spans, *there.spans):
                assert span.began <= span.ended
            assert (there.role, there.state, there.open) == ("destination", "here", False)

    asyncio.run(test())


def test_a_host_with_another_version_is_refused_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            source = set_up.clients["host-a"]
            await set_up.guest_on("host-a").register()

            async def old(client: AgentClient, handover_id: str) -> PeerState:
                del client
                return PeerState(handover_id=handover_id, known=False)

            monkeypatch.setattr(AgentClient, "peer_state", old)
            with pytest.raises(AgentRefused, match=r"host-a has API version .* and the agent of host-b none"):
                await source.prepare(GUEST, "h1", "host-b")
            assert await set_up.registrants() == {"host-a": (KEY, False)}

    asyncio.run(test())
