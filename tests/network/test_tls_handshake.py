"""Handshakes in a thread, and the transport that follows, against the TLS of Python's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from holdover.admission.turns_to_begin import Rates
from holdover.network import tls_transport
from tests.agent.certified import Authority
from tests.network.tls_server import Echo, Server, server, within


def test_no_handshake_takes_time_of_the_loop(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path) as there:
            for _ in range(3):
                reader, writer = await there.connect()
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
            assert there.ends == [None] * 3
            assert len(there.threads) == 1
            assert threading.get_ident() not in there.threads

    within(test)


def test_megabytes_come_and_go_and_the_sender_waits(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path) as there:
            reader, writer = await there.connect()
            sent = b"".join(number.to_bytes(4, "big") for number in range(1 << 20))

            async def send() -> None:
                writer.write(sent)
                await writer.drain()

            sending = asyncio.create_task(send())
            assert await reader.readexactly(len(sent)) == sent
            await sending
            writer.close()
            await there.until(lambda: there.made[0].events[-1:] == ["lost"])
            assert there.made[0].events[-2:] == ["end", "lost"]
            assert there.made[0].transport.get_extra_info("ssl_object").getpeercert()["subjectAltName"]

    within(test)


def test_what_comes_with_the_end_of_the_handshake_is_not_lost(tmp_path: Path) -> None:
    """A client of TLS 1.3 may send its requests before the server has seen the end of the handshake."""

    async def test() -> None:
        async with server(tmp_path, Rates(1000, 0.001, 1000, 0.001)) as there:
            client = await there.connect_by_hand()
            data = bytes(1 << 20)
            client.tls.write(data)
            client.writer.write(client.outgoing.read())  # the end of the handshake, and a MiB
            await there.until(lambda: len(there.made) == 1)

            async def drop() -> None:
                while await client.reader.read(65536):
                    pass

            dropping = asyncio.create_task(drop())
            await there.until(lambda: len(there.made[0].received) == len(data))
            client.writer.close()
            await dropping

    within(test)


def test_bytes_one_by_one_take_one_step_for_each_record(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path) as there:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = there.client.wrap_bio(incoming, outgoing, server_hostname="host-a")
            reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            incoming.write(await reader.read(65536))
            tls.do_handshake()
            tls.write(b"hello")
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            await there.until(lambda: len(there.made) == 1)
            assert there.handshakes[0].steps <= 5, "one for the hello, and few for what follows"
            writer.close()

    within(test)


def test_a_record_that_comes_in_two_pieces_is_told_by_its_beginning(tmp_path: Path) -> None:
    """The second piece may look like the beginning of another record that is still to come."""

    async def attempt(there: Server) -> bool:
        """Whether the client's last record had such a piece."""
        client = await there.connect_by_hand()
        last, writer = client.outgoing.read(), client.writer
        cut = next((at for at in range(12, len(last) - 5) if last[at] in range(20, 24)), None)
        writer.write(last[:cut])
        if cut is not None:
            await there.until(lambda: there.handshakes[-1].steps > 1)
            writer.write(last[cut:])
        await there.until(lambda: len(there.ends) == len(there.handshakes))
        assert there.ends[-1] is None
        writer.close()
        return cut is not None

    async def test() -> None:
        async with server(tmp_path) as there:
            while not await attempt(there):
                pass

    within(test)


def test_a_handshake_has_a_limited_number_of_steps(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path) as there:
            reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
            # a ClientHello of 16 MiB, of which each record holds one byte
            piece = bytes.fromhex("1603010001")
            writer.write(piece + b"\x01")
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    await asyncio.sleep(0.002)
                    if writer.is_closing():  # uvloop lets nobody write to a closed transport
                        break
                    writer.write(piece + b"\xff")
                    await writer.drain()
            await there.until(lambda: bool(there.ends))
            assert there.ends[0] is not None
            assert there.handshakes[0].steps <= 64
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

    within(test)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x00\xffx"], ids=["silence", "half a record"])
def test_silence_ends(tmp_path: Path, sent: bytes) -> None:
    async def test() -> None:
        async with server(tmp_path, seconds=0.2) as there:
            reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert isinstance(there.ends[0], TimeoutError)
            assert there.threads == set()
            writer.close()

    within(test)


def test_who_leaves_before_its_turn_takes_none(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path, Rates(1000, 0.001, 1, 3600.0)) as there:
            _, first = await there.connect()
            _, gone = await asyncio.open_connection("127.0.0.1", there.port)
            gone.write(bytes.fromhex("160301000101"))
            await there.until(lambda: len(there.handshakes) == 2)
            gone.transport.abort()
            await there.until(lambda: len(there.ends) == 2)
            assert there.handshakes[1].steps == 0
            first.close()

    within(test)


def test_a_refused_certificate_is_told_to_the_client(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path / "ca") as there:
            other = Authority.make(tmp_path / "other").client("host-b").context
            other.load_verify_locations(tmp_path / "ca" / "ca.crt")
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", there.port, ssl=other, server_hostname="host-a"
            )
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                await reader.read()
            assert isinstance(there.ends[0], ssl.SSLCertVerificationError)
            assert there.made == []
            writer.close()

    within(test)


def test_a_paused_protocol_gets_nothing_until_it_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path) as there:
            reader, writer = await there.connect()
            writer.write(b"pause")
            await there.until(lambda: bool(there.made) and not there.made[0].transport.is_reading())
            writer.write(b"more")
            await writer.drain()
            await asyncio.sleep(0.05)
            assert there.made[0].received == b"pause"
            there.made[0].transport.resume_reading()
            assert await reader.readexactly(4) == b"more"
            writer.close()

    within(test)


def test_another_protocol_takes_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path) as there:
            reader, writer = await there.connect()
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            second = Echo()
            second.connection_made(there.made[0].transport)
            there.made[0].transport.set_protocol(second)
            assert second.transport.get_protocol() is second
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"
            assert (bytes(there.made[0].received), bytes(second.received)) == (b"one", b"two")
            writer.close()
            await there.until(lambda: "lost" in second.events)

    within(test)


def test_the_server_ends_tls_before_it_closes(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path) as there:
            reader, writer = await there.connect()
            writer.write(b"close")
            # without the end of TLS, a client could not tell this from data that was cut off
            assert await reader.read() == b"closing"
            writer.close()
            await there.until(lambda: there.made[0].events == ["lost"])

    within(test)


def test_a_closed_connection_does_not_wait_for_a_client_that_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "_CLOSE_SECONDS", 0.1)

    async def test() -> None:
        async with server(tmp_path) as there:
            reader, writer = await there.connect()
            await there.until(lambda: len(there.made) == 1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            there.made[0].transport.write(bytes(64 << 20))
            there.made[0].transport.close()
            await there.until(lambda: "lost" in there.made[0].events)
            del reader
            writer.transport.abort()

    within(test)


def test_what_is_no_tls_ends_the_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with server(tmp_path) as there:
            reader, writer = await there.connect()
            await there.until(lambda: len(there.made) == 1)
            raw: Any = writer.get_extra_info("socket")
            duplicate = socket.socket(fileno=socket.dup(raw.fileno()))
            duplicate.send(b"GET / HTTP/1.1\r\n\r\n")
            duplicate.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                assert await reader.read() == b""
            await there.until(lambda: there.made[0].events == ["lost"])
            assert there.made[0].received == b""
            writer.close()

    within(test)
