"""A guest that another node fences around a handover: it goes on without its registration, wherever it runs
next, and hears of it there once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdover.api.client import AgentRefused
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import AdditionalSense, decode_sense, is_unit_attention
from holdover.scsi.status import Status
from tests.agent.hosts import GUEST, KEY, Fate, Initiator, San, san
from tests.rig.amounts import some

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
FENCER = 0xFE
READY = Command(UnitReady().encode())
PREEMPT = out_command(OutServiceAction.PREEMPT, FENCER, KEY, type=WERO)


async def prepared(set_up: San, *, holds: bool) -> tuple[Initiator, Initiator]:
    """The guest, which holds the reservation or is registered beside it, and the node that fences it."""
    guest, fencer = set_up.guest_on("host-a"), set_up.third("fencer")
    await fencer.register(FENCER)
    await guest.register()
    await (guest if holds else fencer).reserve(WERO, KEY if holds else FENCER)
    client = set_up.clients["host-a"]
    assert (await client.prepare(GUEST, "h1", set_up.apis["host-b"])).state == "prepared"
    return guest, fencer


async def heard(guest: Initiator) -> list[int]:
    """The unit attentions that the guest is told of its reservation."""
    found: list[int] = []
    while is_unit_attention(response := await guest.path.execute(READY)):
        found.append(decode_sense(response.sense).additional)
    return [each for each in found if each != AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED]


async def arrived(set_up: San, expected: list[int]) -> None:
    """The guest is on host-b, fenced, and has heard of it there what was to be heard."""
    client = set_up.clients["host-a"]
    assert (await client.commit(GUEST, "h1")).state == "committed"
    there = set_up.guest_on("host-b")
    assert await heard(there) == expected
    assert (await client.finish(GUEST, "h1")).state == "gone"
    assert await heard(there) == []
    assert await set_up.registrants() == {"fencer": (FENCER, True)}
    assert (await there.tell(out_command(OutServiceAction.REGISTER, KEY, KEY))).status is (
        Status.RESERVATION_CONFLICT
    )
    await there.register(KEY)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(600):
        for _ in iter(true, True):
            await asyncio.sleep(0.01)


async def at_once(set_up: San) -> None:
    """Nothing happens between the fence and what comes next."""


async def rechecked(set_up: San) -> None:
    """The source looks again and tells the destination."""
    source = set_up.hosts["host-a"].handovers
    device = set_up.hosts["host-a"].guests[GUEST].devices[0]
    device.read_again()
    await until(lambda: not device.tracked.key and not device.block.stale)
    await until(lambda: (state := source.state(GUEST)) is not None and state.state == "prepared")


Between = Callable[[San], Awaitable[None]]
each_time = pytest.mark.parametrize("between", [at_once, rechecked], ids=lambda each: each.__name__)
each_role = pytest.mark.parametrize("holds", [True, False], ids=["holder", "registrant"])


@each_role
@each_time
def test_it_arrives_fenced_and_hears_of_it_once(tmp_path: Path, between: Between, holds: bool) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            _, fencer = await prepared(set_up, holds=holds)
            await fencer.must(PREEMPT)
            await between(set_up)
            await arrived(set_up, [AdditionalSense.REGISTRATIONS_PREEMPTED])

    asyncio.run(test())


@each_time
def test_what_it_has_heard_before_it_stopped_it_does_not_hear_again(tmp_path: Path, between: Between) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest, fencer = await prepared(set_up, holds=True)
            await fencer.must(PREEMPT)
            await between(set_up)
            assert await heard(guest) == [AdditionalSense.REGISTRATIONS_PREEMPTED]
            await arrived(set_up, [])

    asyncio.run(test())


def test_what_it_has_heard_past_the_agent_it_does_not_hear_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            _, fencer = await prepared(set_up, holds=True)
            await fencer.must(PREEMPT)
            # as its data commands go through the helper front end
            path = set_up.hosts["host-a"].guests[GUEST].devices[0]._path
            assert is_unit_attention(await path.execute(READY))
            await arrived(set_up, [])

    asyncio.run(test())


@each_role
def test_one_that_was_fenced_before_it_was_prepared(tmp_path: Path, holds: bool) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest, fencer = set_up.guest_on("host-a"), set_up.third("fencer")
            await fencer.register(FENCER)
            await guest.register()
            await (guest if holds else fencer).reserve(WERO, KEY if holds else FENCER)
            await fencer.must(PREEMPT)
            client = set_up.clients["host-a"]
            assert (await client.prepare(GUEST, "h1", set_up.apis["host-b"])).state == "prepared"
            await arrived(set_up, [AdditionalSense.REGISTRATIONS_PREEMPTED])

    asyncio.run(test())


@each_role
@each_time
@pytest.mark.parametrize("committed", [False, True], ids=["prepared", "committed"])
def test_it_stays_and_hears_of_it_once(
    tmp_path: Path, between: Between, holds: bool, committed: bool
) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest, fencer = await prepared(set_up, holds=holds)
            await fencer.must(PREEMPT)
            await between(set_up)
            client = set_up.clients["host-a"]
            if committed:
                assert (await client.commit(GUEST, "h1")).state == "committed"
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            assert await heard(guest) == [AdditionalSense.REGISTRATIONS_PREEMPTED]
            assert await set_up.registrants() == {"fencer": (FENCER, True)}

    asyncio.run(test())


@each_role
@pytest.mark.provokes("third-node")
def test_a_commit_that_is_refused(tmp_path: Path, holds: bool) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest, fencer = await prepared(set_up, holds=holds)
            refused = False

            async def hook(host: str, command: Command) -> Fate:
                nonlocal refused
                if host == "host-b" and not refused and command.cdb[:1] == b"\x5f":
                    refused = True
                    await fencer.must(PREEMPT)
                    # the destination has lost its registration, and another host has the guest's key now
                    await fencer.must(out_command(OutServiceAction.REGISTER, FENCER, KEY))
                return Fate.ANSWERED

            set_up.hook(hook)
            client = set_up.clients["host-a"]
            with pytest.raises(AgentRefused, match="another node has removed the guest's registration"):
                await client.commit(GUEST, "h1")
            set_up.hook(None)
            await client.roll_back(GUEST, "h1")
            assert await heard(guest) == [AdditionalSense.REGISTRATIONS_PREEMPTED]
            assert await set_up.registrants() == {"fencer": (KEY, True)}

    asyncio.run(test())


@pytest.mark.parametrize("heard_there", [False, True])
def test_one_that_is_fenced_on_the_destination_and_comes_back(tmp_path: Path, heard_there: bool) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest, fencer = await prepared(set_up, holds=True)
            client = set_up.clients["host-a"]
            assert (await client.commit(GUEST, "h1")).state == "committed"
            there = set_up.guest_on("host-b")
            assert await heard(there) == []
            await fencer.must(PREEMPT)
            expected = [AdditionalSense.REGISTRATIONS_PREEMPTED]
            if heard_there:
                assert await heard(there) == expected
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            assert await heard(guest) == ([] if heard_there else expected)
            assert await set_up.registrants() == {"fencer": (FENCER, True)}

    asyncio.run(test())


def test_a_rollback_that_loses_nothing_is_not_heard_of(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest, _ = await prepared(set_up, holds=True)
            client = set_up.clients["host-a"]
            assert (await client.commit(GUEST, "h1")).state == "committed"
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            assert await heard(guest) == []
            assert await set_up.registrants() == {"fencer": (FENCER, False), "host-a": (KEY, True)}

    asyncio.run(test())


@pytest.mark.parametrize("number", some(range(11), 3))
def test_one_that_is_fenced_and_registers_again_while_it_is_prepared(tmp_path: Path, number: int) -> None:
    """The fence, and then the guest's REGISTER, come before the command of that number."""

    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest, fencer = set_up.guest_on("host-a"), set_up.third("fencer")
            await fencer.register(FENCER)
            await guest.register()
            await guest.reserve(WERO)
            seen = 0
            again: asyncio.Task[None] | None = None

            async def register_again() -> None:
                register = out_command(OutServiceAction.REGISTER, 0, KEY)
                async with asyncio.timeout(600):
                    while not (await guest.tell(register)).good:
                        pass

            async def hook(host: str, command: Command) -> Fate:
                nonlocal seen, again
                if host not in ("host-a", "host-b") or command.opcode not in (0x5E, 0x5F):
                    return Fate.ANSWERED
                seen += 1
                if seen == number + 1:
                    again = asyncio.ensure_future(register_again())
                    await fencer.must(PREEMPT)
                return Fate.ANSWERED

            set_up.hook(hook)
            client = set_up.clients["host-a"]
            assert (await client.prepare(GUEST, "h1", set_up.apis["host-b"])).state == "prepared"
            assert again is not None
            await again
            set_up.hook(None)
            assert (await client.commit(GUEST, "h1")).state == "committed"
            assert (await client.finish(GUEST, "h1")).state == "gone"
            assert await set_up.registrants() == {"fencer": (FENCER, True), "host-b": (KEY, False)}

    asyncio.run(test())
