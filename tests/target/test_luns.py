"""A LUN that loses its power, and tells of its reservations, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdover.lun.errors import LunError
from holdover.lun.options import LunOptions
from holdover.scsi.cdbs.opcodes import OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import is_unit_attention
from holdover.scsi.status import Status
from holdover.target.events import Event, PowerLost, ReserveOut
from holdover.target.luns import ServedLun
from tests.lun.support import TEST_UNIT_READY, A, B, C

REGISTER = out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, 1)
REGISTER_APTPL = out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, 2, aptpl=True)


class Setting:
    """One LUN, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.lun = ServedLun(6, LunOptions(folder / "lun", 1 << 20), self.events.append)

    async def meet(self) -> None:
        for nexus in (A, B, C):
            while is_unit_attention(await self.lun.execute(nexus, TEST_UNIT_READY)):
                pass


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(600):
            await test()

    asyncio.run(limited())


def test_commands_that_come_meanwhile_wait_for_the_power(tmp_path: Path) -> None:
    async def test() -> None:
        setting = Setting(tmp_path)
        await setting.meet()
        lun = setting.lun
        assert (await lun.execute(A, REGISTER)).good
        assert lun.execute_now(A, TEST_UNIT_READY) == Response(Status.GOOD)
        losing = asyncio.create_task(lun.lose_power())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert lun.execute_now(A, TEST_UNIT_READY) is None
        waiting = [asyncio.create_task(lun.execute(nexus, TEST_UNIT_READY)) for nexus in (A, B)]
        again = asyncio.create_task(lun.lose_power())
        reset = asyncio.create_task(lun.reset())
        await asyncio.gather(losing, again, reset)
        assert [is_unit_attention(await each) for each in waiting] == [True, True]
        assert lun.state.registrations == ()
        assert [type(each) for each in setting.events] == [ReserveOut, PowerLost, PowerLost]
        await lun.nexus_lost(A)
        await lun.close()

    run(test)


def test_each_change_is_told_of_once_whoever_is_cancelled(tmp_path: Path) -> None:
    async def test() -> None:
        setting = Setting(tmp_path)
        await setting.meet()
        tasks = [
            asyncio.create_task(setting.lun.execute(nexus, command))
            for nexus, command in ((A, REGISTER_APTPL), (B, REGISTER), (C, REGISTER_APTPL), (A, REGISTER))
        ]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await setting.lun.close()
        told = [each for each in setting.events if isinstance(each, ReserveOut)]
        added = [[each.initiator for each in event.changes.added] for event in told]
        assert added == [[str(A.initiator)], [str(B.initiator)], [str(C.initiator)], []]
        assert [event.changes.generation for event in told] == [1, 2, 3, 4]
        assert [event.changes.generation_before for event in told] == [0, 1, 2, 3]

    run(test)


def test_a_lun_that_cannot_be_opened_again_is_not_ready_until_it_can(tmp_path: Path) -> None:
    async def test() -> None:
        setting = Setting(tmp_path)
        await setting.meet()
        lun = setting.lun
        assert (await lun.execute(A, REGISTER_APTPL)).good
        kept = tmp_path / "lun.pr"
        sound = kept.read_bytes()
        kept.write_bytes(b"{}")
        with pytest.raises(LunError, match=r"lun\.pr"):
            await lun.lose_power()
        for command in (
            TEST_UNIT_READY,
            REGISTER,
            Command(bytes.fromhex("2a000000000000000100"), bytes(512)),
        ):
            for answer in (lun.execute_now(A, command), await lun.execute(A, command)):
                assert answer is None or answer.status is Status.CHECK_CONDITION
                assert answer is None or answer.sense[2] == 2, "NOT READY"
        await lun.reset()
        await lun.nexus_lost(A)
        kept.write_bytes(sound)
        await lun.lose_power()
        await setting.meet()
        assert [each.key for each in lun.state.registrations] == [2]
        await lun.close()

    run(test)
