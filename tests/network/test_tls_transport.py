"""Many TLS records at once: the event loop does other work between them, and nothing is lost."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.network.tls_server import ByHand, Echo, Server, server, within

RECORDS = 2000
"""What these have, encrypted, is received at once if each holds one byte."""
_RECEIVED = 64
"""The most records that the loop may decrypt in one turn."""


class Listener(Echo):
    """Notes in which turn of the loop each record has come; pauses, or fails, at an amount of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        self.turns: Counter[int] = Counter()
        self.pauses_at: int | None = None
        self.fails_at: int | None = None
        self._ticks()

    def _ticks(self) -> None:
        self.turn += 1
        asyncio.get_running_loop().call_soon(self._ticks)

    def data_received(self, data: bytes) -> None:
        assert self.transport.is_reading()
        self.turns[self.turn] += 1
        self.received += data
        if len(self.received) == self.pauses_at:
            self.transport.pause_reading()
        if len(self.received) == self.fails_at:
            raise ZeroDivisionError


def sequence(size: int) -> bytes:
    """What the client sends in `RECORDS` records of ``size`` bytes."""
    return bytes(number % 251 for number in range(RECORDS * size))


def records(client: ByHand, size: int = 1) -> bytes:
    """These records, encrypted; before them, whatever the client has not sent yet."""
    data = sequence(size)
    for at in range(0, len(data), size):
        client.tls.write(data[at : at + size])
    return client.outgoing.read()


def end_of_tls(client: ByHand) -> bytes:
    with pytest.raises(ssl.SSLWantReadError):  # the server's end has not come
        client.tls.unwrap()
    return client.outgoing.read()


@asynccontextmanager
async def connected(folder: Path) -> AsyncGenerator[tuple[Server, ByHand, Listener], None]:
    async with server(folder, protocol=Listener) as there:
        client = await there.connect_by_hand()
        client.writer.write(client.outgoing.read())
        await there.until(lambda: len(there.made) == 1)
        (listener,) = there.made
        assert isinstance(listener, Listener)
        yield there, client, listener
        client.writer.transport.abort()
        await there.until(lambda: "lost" in listener.events)


@pytest.mark.parametrize("size", [1, 1000])
def test_the_loop_goes_on_between_many_records(tmp_path: Path, size: int) -> None:
    """What has been received is handed over, though the client sends nothing more."""

    async def test() -> None:
        async with connected(tmp_path) as (there, client, listener):
            client.writer.write(records(client, size))
            await there.until(lambda: len(listener.received) == RECORDS * size)
            assert listener.received == sequence(size)
            assert max(listener.turns.values()) <= _RECEIVED
            assert len(listener.turns) >= RECORDS / _RECEIVED

    within(test)


def test_records_that_come_with_the_end_of_the_handshake_take_turns(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path, protocol=Listener) as there:
            client = await there.connect_by_hand()
            client.writer.write(records(client))
            await there.until(lambda: len(there.made) == 1 and len(there.made[0].received) == RECORDS)
            (listener,) = there.made
            assert isinstance(listener, Listener)
            assert listener.received == sequence(1)
            assert max(listener.turns.values()) <= _RECEIVED
            client.writer.transport.abort()
            await there.until(lambda: "lost" in listener.events)

    within(test)


def test_a_protocol_that_pauses_amid_many_records_gets_the_rest_when_it_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (there, client, listener):
            listener.pauses_at = 200
            client.writer.write(records(client))
            await there.until(lambda: not listener.transport.is_reading())
            paused = listener.turn
            await there.until(lambda: listener.turn > paused + 100)
            assert listener.received == sequence(1)[:200]
            listener.transport.resume_reading()
            listener.transport.pause_reading()
            await there.until(lambda: listener.turn > paused + 200)
            assert listener.received == sequence(1)[:200]
            listener.transport.resume_reading()
            await there.until(lambda: len(listener.received) == RECORDS)
            assert listener.received == sequence(1)
            assert max(listener.turns.values()) <= _RECEIVED

    within(test)


@pytest.mark.parametrize("pauses", [False, True], ids=["reads", "pauses"])
@pytest.mark.parametrize("way", ["TLS", "TCP", "both"])
def test_the_end_comes_after_many_records(tmp_path: Path, way: str, pauses: bool) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (there, client, listener):
            listener.pauses_at = 200 if pauses else None
            client.writer.write(records(client) + (end_of_tls(client) if way != "TCP" else b""))
            if way != "TLS":
                client.writer.write_eof()
            if pauses:
                await there.until(lambda: not listener.transport.is_reading())
                listener.transport.resume_reading()
            await there.until(lambda: listener.events == ["end", "lost"])
            assert listener.received == sequence(1)

    within(test)


def test_a_connection_whose_protocol_fails_amid_many_records_ends(tmp_path: Path) -> None:
    async def test() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with connected(tmp_path) as (there, client, listener):
            listener.fails_at = 200
            client.writer.write(records(client))
            await there.until(lambda: listener.events == ["lost"])
            assert listener.received == sequence(1)[:200]
        (error,) = told
        assert isinstance(error, ZeroDivisionError)

    within(test)


def test_a_connection_that_is_cut_amid_many_records_gets_no_more(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (there, client, listener):
            listener.pauses_at = 200
            client.writer.write(records(client))
            await there.until(lambda: not listener.transport.is_reading())
            listener.transport.resume_reading()
            listener.transport.abort()
            await there.until(lambda: listener.events == ["lost"])
            lost = listener.turn
            await there.until(lambda: listener.turn > lost + 100)
            assert listener.received == sequence(1)[:200]

    within(test)
