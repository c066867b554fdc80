"""What another host's agent may say of handovers, and what it may not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.agent.api import PeerMessage, PeerState
from holdover.agent.client import AgentClient, AgentRefused
from holdover.agent.config import Limits
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import Answer, Answered, Message
from holdover.handover.states import MessageKind
from tests.agent.hosts import GUEST, San, san
from tests.agent.test_handover_trouble import until
from tests.agent.test_handovers import move, reserved

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=0.2)


async def hears(set_up: San, host: str, kind: MessageKind, handover: str, guest: str) -> Answer:
    message = Message(kind, handover, guest, 9, (MovingLun("naa.1"),))
    told = PeerMessage(host="somebody", api="127.0.0.1:9", message=message)
    return await set_up.clients[host].tell(told)


@pytest.mark.parametrize("guest", [GUEST, "other"])
@pytest.mark.parametrize("kind", MessageKind, ids=lambda kind: kind.value)
def test_no_message_hides_a_handover_of_which_this_host_is_the_source(
    tmp_path: Path, kind: MessageKind, guest: str
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.commit(GUEST, "h1")
            answer = await hears(set_up, "host-a", kind, "h1", guest)
            assert answer.kind is Answered.REFUSED
            assert "host-a is the source of handover h1" in answer.problem
            assert [each.role for each in set_up.journals["host-a"].load().handovers] == ["source"]
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert (await client.handover(GUEST)).state == "committed"
            assert (await set_up.gates())["host-a"] == "leaving"

    asyncio.run(test())


def test_no_message_hides_one_that_is_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await move(set_up)
            await move(set_up, "host-b", "host-a", "h2")
            answer = await hears(set_up, "host-a", MessageKind.CLOSE, "h1", "other")
            assert answer.kind is Answered.REFUSED
            assert (await set_up.clients["host-a"].peer_state("h1")).state == "gone"

    asyncio.run(test())


def test_a_source_that_cannot_be_asked_for_a_reason_unforeseen_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            ask = AgentClient.peer_state
            failed = asyncio.Event()

            async def fails(_self: AgentClient, _handover: str) -> PeerState:
                monkeypatch.setattr(AgentClient, "peer_state", ask)
                failed.set()
                raise RuntimeError("not foreseen")

            monkeypatch.setattr(AgentClient, "peer_state", fails)
            await set_up.stop("host-b")
            with pytest.raises(AgentRefused):
                await client.roll_back(GUEST, "h1")
            assert (await client.roll_back(GUEST, "h1", alone=True)).state == "stayed"
            await set_up.start("host-b")
            await failed.wait()
            await until(set_up, "host-b", lambda state: state.state == "returned")

    asyncio.run(test())
