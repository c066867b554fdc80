"""A guest's commands through an export: data arrive whole, and each command has one end, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdover.guest.gate import Gate
from holdover.iscsi.digest import Digest
from holdover.iscsi.errors import ConnectionLost
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status
from tests.agent.guests.gateway import Gateway, gateway
from tests.iscsi.loopback import run
from tests.iscsi.ram import BLOCK, HOLD, HOLD_READ, HOLD_WRITE, TEST_UNIT_READY, read, write
from tests.rig.amounts import amount

_lengths = st.sampled_from([512, 1000, 4096, 8192, 65536, 262144])
_digests = st.permutations(list(Digest)).map(tuple)
_limits = st.builds(
    NegotiationLimits,
    initial_r2t=st.booleans(),
    immediate_data=st.booleans(),
    max_recv_data_segment_length=_lengths,
    max_burst_length=_lengths,
    first_burst_length=_lengths,
    max_outstanding_r2t=st.integers(1, 4),
    header_digests=_digests,
    data_digests=_digests,
)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - it waits for what no event tells
        await asyncio.sleep(0.001)


# a plain command is relayed, until something happens to it
each_kind = pytest.mark.parametrize("kind", [HOLD, HOLD_READ, HOLD_WRITE], ids=["ordinary", "read", "write"])


async def hold(
    there: Gateway, kind: Command, initiator: IscsiInitiator | None = None
) -> asyncio.Task[Response]:
    """A command that is at the disk, and does not end by itself."""
    held = there.disk.held
    task = asyncio.create_task((initiator or there.guest).execute(0, kind))
    await until(lambda: there.disk.held == held + 1)
    return task


@settings(max_examples=amount(40, 1000), deadline=None, suppress_health_check=list(HealthCheck))
@given(_limits, _limits, _limits, st.integers(1, 16), st.integers(0, 2**32))
def test_data_arrive_whole_whatever_the_two_sides_have_agreed_upon(
    guest: NegotiationLimits, export: NegotiationLimits, target: NegotiationLimits, window: int, seed: int
) -> None:
    source = random.Random(seed)

    async def one(there: Gateway, number: int) -> None:
        blocks, lba = source.choice([1, 2, 8, 63, 64]), number * 64
        data = source.randbytes(blocks * BLOCK)
        assert await there.guest.execute(0, write(lba, data)) == Response(Status.GOOD)
        assert there.disk.data[lba * BLOCK : lba * BLOCK + len(data)] == data
        for room in (len(data), 100, len(data) + 100):
            response = await there.guest.execute(0, read(lba, blocks, room))
            assert (response.status, response.data_in) == (Status.GOOD, data[:room])
            assert response.data_in_length == (len(data) if room < len(data) else None)

    async def test() -> None:
        async with gateway(guest=guest, export=export, target=target, max_commands=window) as there:
            await asyncio.gather(*(one(there, number) for number in range(12)))
            assert (there.device.in_flight, there.export.budget.used) == (0, 0)

    run(test)


def test_what_the_disk_refuses_the_guest_is_told() -> None:
    async def test() -> None:
        async with gateway() as there:
            for command in (read(1 << 20, 1), write(1 << 20, bytes(BLOCK)), Command(b"\x5b" + bytes(9))):
                expected = there.disk.answer(command)
                response = await there.guest.execute(0, command)
                assert (response.status, response.sense) == (Status.CHECK_CONDITION, expected.sense)

    run(test)


@each_kind
def test_an_aborted_command_has_ended_at_the_disk(kind: Command) -> None:
    async def test() -> None:
        async with gateway() as there:
            held = await hold(there, kind)
            assert there.device.in_flight == 1
            held.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await held
            assert (there.disk.held, there.disk.cancelled, there.device.in_flight) == (0, 1, 0)
            assert (await there.guest.execute(0, TEST_UNIT_READY)).good

    run(test)


@each_kind
def test_an_abort_waits_for_the_disk(kind: Command) -> None:
    async def test() -> None:
        async with gateway() as there:
            there.disk.linger = asyncio.Event()
            held = await hold(there, kind)
            held.cancel()
            assert (await there.guest.execute(0, TEST_UNIT_READY)).good
            assert not held.done()
            assert not await there.device.drain(0.05)
            there.disk.linger.set()
            with contextlib.suppress(asyncio.CancelledError):
                await held
            assert await there.device.drain(600)

    run(test)


@each_kind
def test_the_end_of_the_guests_session_aborts_its_commands_alone(kind: Command) -> None:
    async def test() -> None:
        async with gateway() as there:
            other = await there.log_in(isid=b"\x80\2\2\2\2\2")
            mine, theirs = await hold(there, kind), await hold(there, kind, other)
            await there.guest.close()
            with pytest.raises(ConnectionLost):
                await mine
            await until(lambda: there.device.in_flight == 1)
            assert (there.disk.held, there.disk.cancelled, theirs.done()) == (1, 1, False)
            theirs.cancel()
            await asyncio.wait([theirs])
            await other.close()

    run(test)


@each_kind
def test_the_end_of_the_export_ends_what_is_under_way(kind: Command) -> None:
    async def test() -> None:
        async with gateway() as there:
            held = [await hold(there, kind) for _ in range(3)]
            await there.export.close()
            assert (there.disk.held, there.disk.cancelled, there.device.in_flight) == (0, 3, 0)
            assert all(
                isinstance(end, ConnectionLost) for end in await asyncio.gather(*held, return_exceptions=True)
            )

    run(test)


@each_kind
def test_a_reset_aborts_the_commands_of_all_sessions(kind: Command) -> None:
    async def test() -> None:
        async with gateway() as there:
            other = await there.log_in(isid=b"\x80\2\2\2\2\2")
            held, theirs = await hold(there, kind), await hold(there, kind, other)
            await there.guest.reset_logical_unit(0)
            assert (await theirs).status is Status.TASK_ABORTED
            assert (there.disk.held, there.device.in_flight, there.disk.resets) == (0, 0, 0)
            held.cancel()
            told = decode_sense((await there.guest.execute(0, TEST_UNIT_READY)).sense)
            assert told.additional == AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED
            await other.close()

    run(test)


@each_kind
def test_a_lost_session_ends_its_commands_and_the_next_opens_another(kind: Command) -> None:
    async def test() -> None:
        async with gateway() as there:
            held = await hold(there, kind)
            there.lose_session()
            sense = decode_sense((await held).sense)
            assert sense.key is SenseKey.ABORTED_COMMAND
            assert sense.additional == AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE
            assert there.device.in_flight == 0
            assert (await there.guest.execute(0, read(0, 1))).good

    run(test)


@each_kind
def test_a_gate_that_shuts_lets_those_end_that_have_passed(kind: Command) -> None:
    async def test() -> None:
        async with gateway() as there:
            held = await hold(there, kind)
            there.device.move_gate(Gate.LEAVING)
            waiting = asyncio.create_task(there.guest.execute(0, write(5, b"x" * BLOCK)))
            await until(lambda: there.device.held > 0)
            assert not await there.device.drain(0.05)
            held.cancel()
            await asyncio.wait([held])
            assert await there.device.drain(600)
            assert (there.disk.data[5 * BLOCK], waiting.done()) == (0, False)
            there.device.move_gate(Gate.RUNNING)
            assert (await waiting).good
            assert there.disk.data[5 * BLOCK : 6 * BLOCK] == b"x" * BLOCK

    run(test)


@pytest.mark.parametrize("seed", range(amount(3, 100)))
def test_data_stay_right_under_lost_sessions_and_a_gate_that_moves(seed: int) -> None:
    """Each block has one writer, which repeats a write until it is GOOD: then the disk has what it wrote."""
    source = random.Random(seed)

    async def writer(there: Gateway, place: int, rounds: int) -> None:
        for _ in range(rounds):
            blocks = source.choice([1, 8, 64])
            data = source.randbytes(blocks * BLOCK)
            while not (await there.guest.execute(0, write(place * 64, data))).good:
                pass
            assert there.disk.data[place * 64 * BLOCK :][: len(data)] == data
            while not (response := await there.guest.execute(0, read(place * 64, blocks))).good:
                pass
            assert response.data_in == data

    async def trouble(there: Gateway) -> None:
        while True:
            await asyncio.sleep(source.random() * 0.01)
            if source.random() < 0.3:
                there.lose_session()
                continue
            there.device.move_gate(Gate.LEAVING)
            assert await there.device.drain(600)
            assert there.device.in_flight == 0
            before = bytes(there.disk.data)
            await asyncio.sleep(0.002)
            assert there.disk.data == before, "something was written behind the shut gate"
            there.device.move_gate(Gate.RUNNING)

    async def test() -> None:
        async with gateway(target=NegotiationLimits(max_recv_data_segment_length=8192)) as there:
            troubles = asyncio.create_task(trouble(there))
            await asyncio.gather(*(writer(there, place, 20) for place in range(8)))
            troubles.cancel()
            (ended,) = await asyncio.gather(troubles, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError)
            assert there.device.in_flight == 0

    run(test)
