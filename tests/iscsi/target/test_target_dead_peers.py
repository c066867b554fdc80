"""Initiators that fall silent, and a target that leaves in an orderly way."""

from __future__ import annotations

import asyncio
import contextlib

from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.numbers import NO_TAG, Opcode
from holdover.iscsi.pdu import PduReader
from holdover.iscsi.requests import NopOut
from holdover.iscsi.responses import AsyncMessage, NopIn, ResponsePdu
from holdover.iscsi.target.target import IscsiTarget, SessionChange
from tests.iscsi.loopback import login, run, setting
from tests.iscsi.pair import INITIATOR, ISID, TARGET
from tests.iscsi.ram import HOLD, TEST_UNIT_READY, RamDisk


class Client:
    """An initiator by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._pdus = PduReader(1 << 20)

    @classmethod
    async def connect(cls, port: int) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.writer.write(login())
        answer = await client.receive()
        assert answer is not None
        assert answer.opcode is Opcode.LOGIN_RESPONSE
        return client

    async def receive(self) -> ResponsePdu | None:
        """The next PDU, None at the end of the connection."""
        while (pdu := self._pdus.next()) is None:
            data = await self._reader.read(65536)
            if not data:
                return None
            self._pdus.feed(data)
        assert isinstance(pdu, ResponsePdu)
        return pdu


def test_an_initiator_that_stops_answering_loses_its_session() -> None:
    changes: list[SessionChange] = []

    async def test() -> None:
        disk = RamDisk()
        target = IscsiTarget(
            TARGET, {0: disk}, ping_interval=0.01, ping_timeout=0.5, on_session=changes.append
        )
        client = await Client.connect(await target.start("127.0.0.1", 0))
        for _ in range(5):
            ping = await client.receive()
            assert isinstance(ping, NopIn)
            client.writer.write(b"".join(NopOut(NO_TAG, ping.target_tag, 1, immediate=True).encode()))
            assert len(target.sessions()) == 1
        assert isinstance(await client.receive(), NopIn)
        with contextlib.suppress(ConnectionResetError):
            assert await client.receive() is None
        client.writer.close()
        assert target.sessions() == []
        assert len(disk.lost) == 1
        await target.close()

    run(test)
    assert [change.ended for change in changes] == [None, "the initiator does not answer"]


def test_our_initiator_answers() -> None:
    async def test() -> None:
        disk = RamDisk()
        target = IscsiTarget(TARGET, {0: disk}, ping_interval=0.005, ping_timeout=5)
        port = await target.start("127.0.0.1", 0)
        initiator = await IscsiInitiator.connect(
            "127.0.0.1", port, TARGET, INITIATOR, ISID, ping_interval=None
        )
        await asyncio.sleep(0.1)
        assert (await initiator.execute(0, TEST_UNIT_READY)).good
        await initiator.close()
        await target.close()

    run(test)


def test_a_target_that_closes_is_left_by_its_initiators_first() -> None:
    changes: list[SessionChange] = []

    async def test() -> None:
        async with setting(on_session=changes.append) as here:
            initiator = await here.connect()
            await here.target.close(logout_seconds=30)
            assert initiator.lost is not None

    run(test)
    assert changes[-1].ended == "the initiator logged out"


def test_a_target_that_closes_does_not_wait_longer_than_it_says() -> None:
    changes: list[SessionChange] = []

    async def test() -> None:
        async with setting(on_session=changes.append) as here:
            client = await Client.connect(here.port)
            held = asyncio.create_task((await here.connect(b"\x80\1\1\1\1\1")).execute(0, HOLD))
            await here.until(lambda: here.disk.held == 1)
            await here.target.close(logout_seconds=1)
            message = await client.receive()
            assert isinstance(message, AsyncMessage)
            assert message.parameter3 == 1
            assert await client.receive() is None
            client.writer.close()
            assert here.disk.held == 0
            await asyncio.wait([held])
            held.exception()

    run(test)
    # Ours, with a command under way, gives up by itself when the time is over.
    reasons = {change.session.isid: change.ended for change in changes[2:]}
    assert reasons[ISID] == "the target closes"
    assert len(reasons) == 2
