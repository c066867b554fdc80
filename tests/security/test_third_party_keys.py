"""A peer host that names a third party's key as the one to preempt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from holdover.api.documents import PeerMessage
from holdover.api.version import API_VERSION
from holdover.config.agent_file import Limits
from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import Answer, Answered, HandoverEvent, Message
from holdover.handover.source_rules import begin, source_step
from holdover.handover.states import Event, MessageKind, SourceState
from holdover.reservations.tracked import Tracked
from tests.agent.hosts import GUEST, San, san

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=600)
GUESTS_KEY, THIRD_KEY = 0x600D, 0x7777


async def tell(set_up: San, kind: MessageKind, number: int, lun: LunHandover) -> Answer:
    """What host-b answers to whoever has host-a's certificate."""
    peer = set_up.peer("host-b")
    try:
        message = Message(kind, "evil", GUEST, number, (lun,), "q35")
        return await peer.tell(PeerMessage(version=API_VERSION, host="host-a", message=message))
    finally:
        await peer.close()


async def told_of(set_up: San) -> LunHandover:
    """A LUN of the guest's, of which its third party's registration has nothing to do with the guest."""
    device = set_up.hosts["host-b"].guests[GUEST].devices[0]
    designator = str(await device.learn_designator(5))
    await set_up.third().register(THIRD_KEY)
    tracked = Tracked(GUESTS_KEY)
    return LunHandover(
        designator, tracked=tracked, source_spare=0x51, destination_spare=0x52, fresh_spare=0x53
    )


def test_a_commit_does_not_preempt_a_key_that_its_prepare_did_not_name(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            lun = await told_of(set_up)
            prepared = await tell(set_up, MessageKind.PREPARE, 1, lun)
            assert prepared.kind is Answered.DONE, prepared.problem
            evil = replace(lun, source_spare=THIRD_KEY, preempted_key=THIRD_KEY)
            answer = await tell(set_up, MessageKind.COMMIT, 2, evil)
            # at 847e57f it was done, and the third party's registration was gone
            assert answer.kind is Answered.REFUSED
            assert "something else was prepared on this host" in answer.problem
            assert (await set_up.registrants())["third"] == (THIRD_KEY, False)

    asyncio.run(asyncio.wait_for(test(), 120))


@pytest.mark.parametrize("place", range(3))
def test_a_key_that_is_registered_already_is_nobodys_spare_one(tmp_path: Path, place: int) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            lun = await told_of(set_up)
            spares = [THIRD_KEY if each == place else spare for each, spare in enumerate(lun.spares)]
            evil = replace(lun, source_spare=spares[0], destination_spare=spares[1], fresh_spare=spares[2])
            answer = await tell(set_up, MessageKind.PREPARE, 1, evil)
            assert answer.kind is Answered.REFUSED
            assert "key 0x7777, which the source has drawn for this handover, is registered" in answer.problem
            assert await set_up.registrants() == {"third": (THIRD_KEY, False)}

    asyncio.run(asyncio.wait_for(test(), 120))


def test_a_source_does_not_preempt_a_key_that_only_its_destination_names() -> None:
    lun = LunHandover(
        "naa.1", tracked=Tracked(GUESTS_KEY), source_spare=1, destination_spare=2, fresh_spare=3
    )
    source, _ = begin("h", "db1", "host-b", (lun,))
    returning = replace(source, state=SourceState.RETURNING)
    for preempted_key in (0, GUESTS_KEY, 2):
        told, _ = source_step(
            returning, HandoverEvent(Event.TOLD, (replace(lun, preempted_key=preempted_key),))
        )
        assert (told.luns[0].preempted_key, told.luns[0].alarm) == (preempted_key, "")
    for preempted_key in (THIRD_KEY, 1, 3):
        told, _ = source_step(
            returning, HandoverEvent(Event.TOLD, (replace(lun, preempted_key=preempted_key),))
        )
        assert told.luns[0].preempted_key == 0
        assert "which is a third party's" in told.luns[0].alarm
