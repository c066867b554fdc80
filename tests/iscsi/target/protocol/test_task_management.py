"""Task management over loopback: which commands end, and who is told what (RFC 7143 11.5)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.iscsi.numbers import NO_TAG, TaskManagementFunction
from holdover.iscsi.requests import TaskManagementRequest
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status
from tests.iscsi.loopback import OTHER_ISID, login, run, setting
from tests.iscsi.ram import HOLD, TEST_UNIT_READY

RESETS = (TaskManagementFunction.TARGET_WARM_RESET, TaskManagementFunction.TARGET_COLD_RESET)


def test_aborting_a_command_cancels_it_before_it_is_answered() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            held = asyncio.create_task(initiator.execute(0, HOLD))
            await here.until(lambda: here.disk.held == 1)
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            assert (here.disk.held, here.disk.cancelled) == (0, 1)
            assert here.target.sessions()[0].open_commands == 0
            assert (await initiator.execute(0, TEST_UNIT_READY)).good
            await initiator.close()

    run(test)


def test_a_reset_ends_the_commands_of_all_sessions() -> None:
    async def test() -> None:
        async with setting() as here:
            one, two = await here.connect(), await here.connect(OTHER_ISID)
            mine = asyncio.create_task(one.execute(0, HOLD))
            theirs = asyncio.create_task(two.execute(0, HOLD))
            elsewhere = asyncio.create_task(two.execute(300, HOLD))
            await here.until(lambda: here.disk.held == 2 and here.other_disk.held == 1)
            await one.reset_logical_unit(0)
            assert (await theirs).status is Status.TASK_ABORTED
            assert (here.disk.cancelled, here.disk.resets) == (2, 1)
            assert (here.other_disk.held, here.other_disk.resets) == (1, 0)
            for task in (mine, elsewhere):
                task.cancel()
            await asyncio.wait([mine, elsewhere])
            await one.close()
            await two.close()

    run(test)


@pytest.mark.parametrize(
    ("function", "lun", "response"),
    [
        (TaskManagementFunction.ABORT_TASK, 0, 1),
        (TaskManagementFunction.ABORT_TASK_SET, 0, 0),
        (TaskManagementFunction.ABORT_TASK_SET, 7, 2),
        (TaskManagementFunction.CLEAR_ACA, 0, 5),
        (TaskManagementFunction.CLEAR_TASK_SET, 0, 0),
        (TaskManagementFunction.LOGICAL_UNIT_RESET, 7, 2),
        (TaskManagementFunction.TARGET_WARM_RESET, 0, 0),
        (TaskManagementFunction.TARGET_COLD_RESET, 0, 0),
        (TaskManagementFunction.TASK_REASSIGN, 0, 4),
        (99, 0, 255),
    ],
)
def test_task_management_functions(function: int, lun: int, response: int) -> None:
    async def test() -> None:
        async with setting() as here:
            other = await here.connect(OTHER_ISID)
            theirs = asyncio.create_task(other.execute(0, HOLD))
            await here.until(lambda: here.disk.held == 1)
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            request = TaskManagementRequest(9, function, lun << 48, NO_TAG, 1)
            writer.write(login())
            head = await reader.readexactly(48)
            await reader.readexactly((int.from_bytes(head[5:8]) + 3) & ~3)
            writer.write(b"".join(request.encode()))
            answer = await reader.readexactly(48)
            assert (answer[0], answer[2]) == (0x22, response)
            if function == TaskManagementFunction.TARGET_COLD_RESET:
                assert await reader.read() == b""
            writer.close()
            ends = function in (4, 6, 7)
            assert here.disk.cancelled == int(ends)
            assert here.disk.resets == here.other_disk.resets == int(function in (6, 7))
            if not ends:
                theirs.cancel()
            await asyncio.wait([theirs])
            await other.close()

    run(test)


@pytest.mark.parametrize("function", [TaskManagementFunction.LOGICAL_UNIT_RESET, *RESETS])
def test_other_sessions_meet_a_unit_attention_after_a_reset(function: int, tmp_path: Path) -> None:
    async def test() -> None:
        lun = EmbeddedLun.open(LunOptions(tmp_path / "disk", 1 << 20))
        async with setting(luns={1: lun}) as here:
            other = await here.connect(OTHER_ISID)
            for _ in range(3):
                # what a nexus meets at first, whatever it is
                await other.execute(1, TEST_UNIT_READY)
            assert (await other.execute(1, TEST_UNIT_READY)).good
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(login())
            head = await reader.readexactly(48)
            await reader.readexactly((int.from_bytes(head[5:8]) + 3) & ~3)
            writer.write(b"".join(TaskManagementRequest(9, function, 1 << 48, NO_TAG, 1).encode()))
            answer = await reader.readexactly(48)
            assert (answer[0], answer[2]) == (0x22, 0)
            if function == TaskManagementFunction.TARGET_COLD_RESET:
                await other.wait_lost()
                other = await here.connect(OTHER_ISID)
            words = describe_response(await other.execute(1, TEST_UNIT_READY))
            assert "UNIT ATTENTION" in words
            # After a cold reset the nexus is lost too.
            assert (
                "NEXUS LOSS" if function == TaskManagementFunction.TARGET_COLD_RESET else "RESET"
            ) in words
            assert (await other.execute(1, TEST_UNIT_READY)).good
            writer.close()
            await other.close()
        await lun.close()

    run(test)
