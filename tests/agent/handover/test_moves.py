"""What is there before a guest moves is there after, on the other host, whichever way it is moved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.status import Status
from tests.agent.handover.moves import each_type, move, move_by_job, reserved
from tests.agent.hosts import KEY, READ, WRITE, san

Move = Callable[..., Awaitable[None]]
each_way = pytest.mark.parametrize("by", [move, move_by_job], ids=["requests", "job"])


@each_way
@each_type
def test_everything_follows_the_guest_there_and_back(tmp_path: Path, kind: ReservationType, by: Move) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up, kind)
            intruder = set_up.third("intruder")
            for name, source, destination in (("h1", "host-a", "host-b"), ("h2", "host-b", "host-a")):
                assert (await intruder.tell(WRITE)).status is Status.RESERVATION_CONFLICT
                await by(set_up, source, destination, name)
                assert await set_up.registrants() == {destination: (KEY, True)}
                assert (await set_up.full_status()).descriptors[0].type is kind
                assert set_up.luns[0].state.aptpl
                assert (await intruder.tell(WRITE)).status is Status.RESERVATION_CONFLICT
                here, gone = set_up.guest_on(destination), set_up.guest_on(source)
                await here.must(WRITE)
                assert (await here.must(READ)).data_in == WRITE.data_out
                assert (await gone.tell(WRITE)).status is Status.CHECK_CONDITION
                assert (await set_up.gates())[source] == "departed"

    asyncio.run(test())


@each_way
@each_type
def test_a_third_node_with_the_same_key_is_not_touched(
    tmp_path: Path, kind: ReservationType, by: Move
) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            third = set_up.third()
            await third.register(aptpl=True)
            await reserved(set_up, kind)
            await by(set_up)
            shared = kind.all_registrants
            assert await set_up.registrants() == {"third": (KEY, shared), "host-b": (KEY, True)}
            allowed = kind.registrants_only or kind.all_registrants
            expected = Status.GOOD if allowed else Status.RESERVATION_CONFLICT
            assert (await third.tell(WRITE)).status is expected
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


@each_way
def test_a_guest_that_reserved_nothing_moves_too(tmp_path: Path, by: Move) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.guest_on("host-a").must(WRITE)
            await by(set_up)
            assert await set_up.registrants() == {}
            await set_up.guest_on("host-b").must(WRITE)
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}

    asyncio.run(test())


@each_way
def test_off_leaves_the_reservation_where_it_was(tmp_path: Path, by: Move) -> None:
    async def test() -> None:
        async with san(tmp_path, migrate_pr=("off", "off")) as set_up:
            await reserved(set_up)
            await by(set_up)
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            assert (await set_up.guest_on("host-b").tell(WRITE)).status is Status.RESERVATION_CONFLICT
            assert (await set_up.guest_on("host-a").tell(WRITE)).status is Status.CHECK_CONDITION

    asyncio.run(test())


@each_way
def test_many_luns_each_with_its_own_state(tmp_path: Path, by: Move) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=7) as set_up:
            for lun, kind in enumerate(ReservationType):
                guest = set_up.guest_on("host-a", lun)
                await guest.register(KEY + lun, aptpl=bool(lun % 2))
                await guest.reserve(kind, KEY + lun)
            await by(set_up)
            for lun, kind in enumerate(ReservationType):
                assert await set_up.registrants(lun) == {"host-b": (KEY + lun, True)}
                state = set_up.luns[lun].state
                assert state.reservation is not None
                assert (state.reservation.type, state.aptpl) == (kind, bool(lun % 2))
            assert await set_up.registrants(6) == {}

    asyncio.run(test())
