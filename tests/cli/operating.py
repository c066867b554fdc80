"""A target with options of its own, and sessions with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, decode_sense, is_unit_attention
from tests.rig.processes import Rig, Target, free_port

IQN = "iqn.2026-11.org.example:san"
ISID = bytes.fromhex("80c0ffee0001")
TEST_UNIT_READY = Command(bytes(6))
INQUIRY = Command(bytes.fromhex("120000002400"), data_in_length=36)
READ_KEYS = in_command(InServiceAction.READ_KEYS)
REGISTER = out_command(OutServiceAction.REGISTER, 0, 0xA)
REGISTER_APTPL = out_command(OutServiceAction.REGISTER, 0, 0xA, aptpl=True)
RESERVE = out_command(OutServiceAction.RESERVE, 0xA, type=ReservationType.WRITE_EXCLUSIVE)


def start(rig: Rig, *options: str, luns: int = 1) -> Target:
    """A target with options of its own."""
    port = free_port()
    files = tuple(rig.folder / f"lun{number}" for number in range(luns))
    arguments = ["target", "--listen", f"127.0.0.1:{port}", "--iqn", IQN, *options]
    for file in files:
        arguments += ["--lun", f"file={file},size=1M"]
    return Target(rig.start("target", arguments, ports=[port]), port, IQN, files)


def events(target: Target, *kinds: str) -> list[Any]:
    """What it has told with --json-events, of these kinds or all."""
    found = [json.loads(line) for line in target.process.output().splitlines()]
    return [each for each in found if not kinds or each["event"] in kinds]


@contextlib.asynccontextmanager
async def logged_in(
    target: Target,
    name: str = "a",
    login: tuple[str, str] | None = None,
    shown: tuple[str, str] | None = None,
) -> AsyncIterator[IscsiInitiator]:
    """A session; `login` and `shown` are user and password of the initiator and of the target."""
    user, password = login or (None, None)
    target_user, target_password = shown or (None, None)
    initiator = await IscsiInitiator.connect(
        "127.0.0.1",
        target.port,
        target.iqn,
        f"iqn.2026-11.org.example:{name}",
        ISID,
        user=user,
        password=password,
        target_user=target_user,
        target_password=target_password,
    )
    try:
        yield initiator
    finally:
        await initiator.close()


async def ready(initiator: IscsiInitiator, lun: int = 0) -> list[AdditionalSense]:
    """The unit attentions that were pending."""
    found = []
    while is_unit_attention(answer := await initiator.execute(lun, TEST_UNIT_READY)):
        found.append(AdditionalSense(decode_sense(answer.sense).additional))
    assert answer.good
    return found


async def keys(initiator: IscsiInitiator) -> tuple[int, ...]:
    """The keys registered on LUN 0."""
    answer = await initiator.execute(0, READ_KEYS)
    assert answer.good
    return ReadKeys.decode(answer.data_in).keys


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test that may not last for ever."""

    async def limited() -> None:
        async with asyncio.timeout(600):
            await test()

    asyncio.run(limited())
