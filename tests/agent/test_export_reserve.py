"""RESERVE(6) through an agent's export: what frees the LUN, and that nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from holdover.iscsi.errors import TaskManagementError
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.numbers import TaskManagementFunction
from holdover.iscsi.url import parse_iscsi_url
from holdover.scsi.cdbs.cdb import Reserve
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, decode_sense, is_unit_attention
from holdover.scsi.status import Status
from tests.agent.hosts import READ, WRITE, Fate, San, san

RESERVE = Command(Reserve(6).encode())
READY = Command(UnitReady().encode())
RESETS = (
    TaskManagementFunction.LOGICAL_UNIT_RESET,
    TaskManagementFunction.TARGET_WARM_RESET,
    TaskManagementFunction.TARGET_COLD_RESET,
)
both = pytest.mark.parametrize("migrate_pr", ["on", "off"])


class Session:
    """One session at the export."""

    def __init__(self, initiator: IscsiInitiator) -> None:
        self.initiator = initiator

    async def tell(self, command: Command) -> Response:
        response = await self.initiator.execute(0, command)
        while is_unit_attention(response):
            response = await self.initiator.execute(0, command)
        return response

    async def status(self, command: Command) -> Status:
        return (await self.tell(command)).status

    async def reset(self, function: TaskManagementFunction) -> None:
        await self.initiator._manage(function, 0)

    def cut(self) -> None:
        assert self.initiator._transport is not None
        self.initiator._transport.abort()


@contextlib.asynccontextmanager
async def exported(folder: Path, migrate_pr: str) -> AsyncIterator[San]:
    async with san(folder, hosts=("host-a",), migrate_pr=(migrate_pr,)) as set_up:
        yield set_up


async def log_in(set_up: San, name: str = "qemu", number: int = 1) -> Session:
    url = parse_iscsi_url(set_up.export("host-a"))
    isid = bytes([0x80, 0, 0, 0, 0, number])
    name = f"iqn.2026-11.org.example:{name}"
    return Session(
        await IscsiInitiator.connect(
            url.host, url.port, url.iqn, name, isid, user=url.user, password=url.password
        )
    )


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(600):
        while not await condition():  # noqa: ASYNC110 - there is nothing that tells it
            await asyncio.sleep(0.01)


async def free_soon(set_up: San) -> None:
    """Wait until another host can write."""
    third = set_up.third()

    async def free() -> bool:
        return (await third.tell(WRITE)).good

    await until(free)


async def reserved(set_up: San) -> Session:
    """A session that has reserved the LUN."""
    session = await log_in(set_up)
    assert await session.status(RESERVE) is Status.GOOD
    assert (await set_up.third().tell(WRITE)).status is Status.RESERVATION_CONFLICT
    return session


@both
@pytest.mark.parametrize("end", ["cut", "logout"])
def test_the_end_of_its_session_frees_the_lun(end: str, migrate_pr: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with exported(tmp_path, migrate_pr) as set_up:
            session = await reserved(set_up)
            beside = await log_in(set_up, number=2)
            assert await beside.status(READ) is Status.RESERVATION_CONFLICT
            if end == "cut":
                session.cut()
            else:
                await session.initiator.close()
            await free_soon(set_up)
            assert await beside.status(RESERVE) is Status.GOOD
            await beside.initiator.close()
            await free_soon(set_up)

    asyncio.run(test())


@both
@pytest.mark.parametrize("function", RESETS, ids=lambda each: each.name)
def test_each_reset_frees_the_lun(function: TaskManagementFunction, migrate_pr: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with exported(tmp_path, migrate_pr) as set_up:
            session = await reserved(set_up)
            other = await log_in(set_up, "other", 2)
            assert await other.status(READ) is Status.RESERVATION_CONFLICT
            await other.reset(function)
            assert (await set_up.third().tell(WRITE)).good
            if function is not TaskManagementFunction.TARGET_COLD_RESET:
                assert await session.status(READ) is Status.GOOD

    asyncio.run(test())


@both
def test_a_reset_is_told_to_the_guest_and_to_no_other_host(migrate_pr: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with exported(tmp_path, migrate_pr) as set_up:
            session, third = await log_in(set_up), set_up.third()
            await session.tell(READY)
            await third.tell(READY)
            await session.reset(TaskManagementFunction.LOGICAL_UNIT_RESET)
            answer = await session.initiator.execute(0, READ)
            sense = decode_sense(answer.sense)
            assert sense.additional == AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED
            assert (await session.initiator.execute(0, READ)).good
            assert (await third.path.execute(READ)).good

    asyncio.run(test())


@both
def test_a_reset_ends_the_guests_commands_and_no_other_hosts(migrate_pr: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with exported(tmp_path, migrate_pr) as set_up:
            session, third = await log_in(set_up), set_up.third()
            await session.tell(READY)
            await third.tell(READY)
            go_on, waiting = asyncio.Event(), asyncio.Semaphore(0)

            async def hold(_: str, command: Command) -> Fate:
                if command.opcode == OperationCode.WRITE_10:
                    waiting.release()
                    await go_on.wait()
                return Fate.ANSWERED

            set_up.hook(hold)
            of_guest = asyncio.create_task(session.initiator.execute(0, WRITE))
            of_third = asyncio.create_task(third.path.execute(WRITE))
            for _ in range(2):
                await waiting.acquire()
            await session.reset(TaskManagementFunction.LOGICAL_UNIT_RESET)
            go_on.set()
            assert (await of_third).good
            # an aborted command of one's own has no answer (SAM-5 7.7)
            assert not of_guest.done()
            of_guest.cancel()
            await asyncio.wait([of_guest])

    asyncio.run(test())


@both
def test_a_lun_that_cannot_be_freed_at_once_is_freed_when_it_answers(
    migrate_pr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdover.agent.guests.lun_nexus._FREE_SECONDS", 0.3)
    monkeypatch.setattr("holdover.agent.guests.lun_nexus._AGAIN_SECONDS", 0.01)

    async def test() -> None:
        async with exported(tmp_path, migrate_pr) as set_up:
            session = await reserved(set_up)
            beside = await log_in(set_up, number=2)
            (lun,) = set_up.served
            execute = lun.execute

            async def busy(nexus: ITNexus, command: Command) -> Response:
                if command.opcode == OperationCode.RELEASE_6:
                    return Response(Status.BUSY)
                return await execute(nexus, command)

            set_up.hook(lambda *_: _answered())
            lun.execute = busy  # type: ignore[method-assign]
            with pytest.raises(TaskManagementError):
                await beside.reset(TaskManagementFunction.LOGICAL_UNIT_RESET)
            session.cut()
            await session.initiator.wait_lost()
            assert await beside.status(READ) is Status.RESERVATION_CONFLICT
            lun.execute = execute  # type: ignore[method-assign]
            await free_soon(set_up)
            assert await beside.status(READ) is Status.GOOD

    asyncio.run(test())


async def _answered() -> Fate:
    return Fate.ANSWERED


def test_without_migrate_pr_the_nexus_of_a_name_ends_with_its_last_session(tmp_path: Path) -> None:
    async def test() -> None:
        async with exported(tmp_path, "off") as set_up:
            one, two = await log_in(set_up, "guest", 1), await log_in(set_up, "guest", 2)
            for session in (one, two):
                assert await session.status(READ) is Status.GOOD
            # the agent's own, and one for both sessions
            assert len(set_up.target.sessions()) == 2
            await one.initiator.close()
            assert await two.status(READ) is Status.GOOD
            await two.initiator.close()

            async def own_alone() -> bool:
                return len(set_up.target.sessions()) == 1

            await until(own_alone)

    asyncio.run(test())
