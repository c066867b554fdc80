"""Plain reads and writes that are relayed: which they are, and that a guest cannot tell them from others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from holdover.guest.gate import Gate
from holdover.iscsi.digest import Digest
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.scsi.cdbs.cdb import Read, Write
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status
from tests.agent.guests.gateway import Gateway, gateway
from tests.agent.guests.test_gateway import until
from tests.iscsi.loopback import run
from tests.iscsi.ram import BLOCK, HOLD, HOLD_READ, HOLD_WRITE, TEST_UNIT_READY, read, write

_DIGEST = NegotiationLimits(header_digests=(Digest.CRC32C,))
_NO_IMMEDIATE = NegotiationLimits(immediate_data=False)


def relayed(there: Gateway) -> int:
    """The number of commands at the disk that are relayed; both sessions agree on it."""
    (connection,) = there.export._sessions.values()
    initiator = there.path._session.initiator
    assert initiator is not None
    assert [*connection.session.relayed.values()] == [*initiator.session.relay.commands.values()]
    return len(connection.session.relayed)


async def begin(there: Gateway, commands: Sequence[Command]) -> list[asyncio.Task[Response]]:
    """Commands of the guest, sent in one write, that the disk holds."""
    tasks = [asyncio.create_task(there.guest.execute(0, each)) for each in commands]
    await until(lambda: there.disk.held == len(tasks))
    return tasks


def test_plain_commands_are_relayed_and_answered() -> None:
    async def test() -> None:
        async with gateway() as there:
            there.disk.data[0x700 * BLOCK : 0x701 * BLOCK] = b"r" * BLOCK
            assert (await there.guest.execute(0, TEST_UNIT_READY)).good  # the session to the target begins
            tasks = await begin(there, [HOLD_READ] * 20)
            assert (relayed(there), there.device.in_flight) == (20, 20)
            there.disk.release.set()
            assert [each.data_in for each in await asyncio.gather(*tasks)] == [b"r" * BLOCK] * 20
            assert (await there.guest.execute(0, write(3, b"w" * BLOCK))).good
            assert there.disk.data[3 * BLOCK : 4 * BLOCK] == b"w" * BLOCK
            assert (relayed(there), there.device.in_flight) == (0, 0)
            (connection,) = there.export._sessions.values()
            assert (connection.session.open_commands, there.export.budget.used) == (0, 0)

    run(test)


@pytest.mark.parametrize(
    ("guest", "target", "command"),
    [
        (_DIGEST, None, HOLD_READ),
        (None, _DIGEST, HOLD_READ),
        (_NO_IMMEDIATE, None, HOLD_WRITE),
        (None, _NO_IMMEDIATE, HOLD_WRITE),
        (NegotiationLimits(max_recv_data_segment_length=512), None, read(0x700, 2)),
        (None, None, Command(HOLD_READ.cdb, data_in_length=0)),
        (None, None, HOLD),
    ],
    ids=["digests", "digests there", "solicited", "solicited there", "several PDUs", "no data", "no read"],
)
def test_other_commands_are_not(
    guest: NegotiationLimits | None, target: NegotiationLimits | None, command: Command
) -> None:
    async def test() -> None:
        async with gateway(guest=guest, target=target) as there:
            assert (await there.guest.execute(0, TEST_UNIT_READY)).good
            task = asyncio.create_task(there.guest.execute(0, command))
            await until(lambda: len(there.disk.seen) == 2)
            assert relayed(there) == 0
            task.cancel()
            await asyncio.wait([task])

    run(test)


def test_nothing_passes_a_shut_gate() -> None:
    async def test() -> None:
        async with gateway() as there:
            tasks = await begin(there, [HOLD_READ])
            there.device.move_gate(Gate.LEAVING)
            waiting = asyncio.create_task(there.guest.execute(0, write(5, b"x" * BLOCK)))
            await until(lambda: there.device.held == 1)
            assert not await there.device.drain(0.05)
            there.disk.release.set()
            assert (await tasks[0]).good
            assert await there.device.drain(600)
            assert there.disk.data[5 * BLOCK] == 0
            there.device.move_gate(Gate.RUNNING)
            assert (await waiting).good

    run(test)


@pytest.mark.parametrize(
    "command",
    [
        read(1 << 20, 1),
        write(1 << 20, bytes(BLOCK)),
        read(0, 2, BLOCK),
        read(0, 1, 2 * BLOCK),
        Command(Read(0, 1, 16).encode(), data_in_length=BLOCK),
        Command(Write(0, 1, 16).encode(), bytes(BLOCK)),
    ],
)
def test_every_answer_comes_back_as_from_the_disk(command: Command) -> None:
    async def test() -> None:
        async with gateway() as there:
            direct = await there.path.execute(command)
            assert await there.guest.execute(0, command) == direct
            assert there.device.in_flight == 0

    run(test)


def test_commands_begin_in_the_order_in_which_they_come() -> None:
    async def test() -> None:
        async with gateway() as there:
            assert (await there.guest.execute(0, TEST_UNIT_READY)).good
            there.disk.seen.clear()
            commands = [read(0, 1), TEST_UNIT_READY, write(0, bytes(BLOCK)), TEST_UNIT_READY]
            await asyncio.gather(*(there.guest.execute(0, each) for each in commands))
            assert there.disk.seen == [each.opcode for each in commands]

    run(test)


def test_the_targets_window_is_kept_to() -> None:
    async def test() -> None:
        async with gateway(max_commands=4) as there:
            assert (await there.guest.execute(0, TEST_UNIT_READY)).good
            tasks = [asyncio.create_task(there.guest.execute(0, HOLD_READ)) for _ in range(12)]
            await until(lambda: there.disk.held == 4)
            there.disk.release.set()
            assert all(each.good for each in await asyncio.gather(*tasks))
            assert relayed(there) == 0

    run(test)


def test_a_busy_tag_is_refused() -> None:
    async def test() -> None:
        async with gateway() as there:
            tasks = await begin(there, [HOLD_READ])
            there.guest.session._next_tag -= 1
            again = there.guest.session.tasks.copy()
            there.guest.session.tasks.clear()
            second = asyncio.create_task(there.guest.execute(0, HOLD_READ))
            with pytest.raises(Exception, match="task in progress"):
                await second
            assert again
            assert there.disk.held == 1
            tasks[0].cancel()

    run(test)


def test_reads_of_other_operation_codes_are_ordinary() -> None:
    async def test() -> None:
        async with gateway() as there:
            command = Command(bytes([OperationCode.READ_6, 0, 0, 0, 1, 0]), data_in_length=BLOCK)
            assert (await there.guest.execute(0, command)).status is Status.CHECK_CONDITION

    run(test)
