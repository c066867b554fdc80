from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from holdover.helper.connection import Peer
from holdover.helper.on_loop import OnLoop
from holdover.paths.sgio import OpenDevice
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import AdditionalSense, decode_sense
from holdover.scsi.status import Status
from tests.helper.client import HelperClient
from tests.helper.serving import serving

PEER = Peer(1, 2, 3)
READ_KEYS = in_command(InServiceAction.READ_KEYS, 64)
DEVICE = OpenDevice(7, os.stat("/dev/null"))


def test_a_command_runs_in_the_loop_and_the_caller_has_the_answer() -> None:
    async def handle(peer: Peer, disk: OpenDevice, command: Command) -> Response:
        await asyncio.sleep(0)
        assert (peer, disk, command) == (PEER, DEVICE, READ_KEYS)
        return Response(Status.GOOD, b"keys")

    async def main() -> None:
        on_loop = OnLoop(handle)
        waiting = await asyncio.to_thread(on_loop.handle, PEER, DEVICE, READ_KEYS)
        assert await asyncio.wrap_future(waiting) == Response(Status.GOOD, b"keys")

    asyncio.run(main())


def test_what_the_handler_raises_is_raised_in_the_thread() -> None:
    async def handle(peer: Peer, disk: OpenDevice, command: Command) -> Response:
        raise LookupError("a mistake")

    async def main() -> None:
        with pytest.raises(LookupError, match="a mistake"):
            await asyncio.wrap_future(OnLoop(handle).handle(PEER, DEVICE, READ_KEYS))

    asyncio.run(main())


def test_commands_that_do_not_end_can_be_given_up() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(peer: Peer, disk: OpenDevice, command: Command) -> Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Response(Status.GOOD)

    async def main() -> None:
        on_loop = OnLoop(handle)
        waiting = on_loop.handle(PEER, DEVICE, READ_KEYS)
        await begun.wait()
        on_loop.close()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wrap_future(waiting)
        await asyncio.wait_for(ended.wait(), 20)

    asyncio.run(main())


def test_a_command_that_was_given_up_is_out_of_reach_for_its_client(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def handle(peer: Peer, disk: OpenDevice, command: Command) -> Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        on_loop = OnLoop(handle)
        path = tmp_path / "helper.sock"
        with serving(path, on_loop.handle), HelperClient(path) as one:
            null = os.open("/dev/null", os.O_RDWR)
            reply = asyncio.ensure_future(asyncio.to_thread(one.run, null, READ_KEYS.cdb))
            await begun.wait()
            on_loop.close()
            sense = decode_sense((await reply).sense)
            assert sense.additional == AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE
            os.close(null)

    asyncio.run(main())
