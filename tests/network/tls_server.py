"""A server of TLS in the test's event loop, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from holdover.admission.turns_to_begin import Rates
from holdover.network import event_loop
from holdover.network.tls_handshake import Handshakes, TlsHandshake
from holdover.network.tls_transport import TlsTransport
from holdover.pki.tls import Credentials
from tests.agent.certified import Authority

WIDE = Rates(burst=1000, seconds=0.001, burst_each=1000, seconds_each=0.001)


class Echo(asyncio.Protocol):
    """Sends back what comes; whoever sends `pause` first waits until the test goes on."""

    def __init__(self) -> None:
        self.transport: TlsTransport
        self.received = bytearray()
        self.events: list[str] = []
        self.can_write = asyncio.Event()
        self.can_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport.is_reading()
        self.received += data
        if self.received == b"pause":
            self.transport.pause_reading()
        elif self.received == b"close":
            self.transport.write(b"closing")
            self.transport.close()
            self.transport.write(b"nothing more")
        else:
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.events.append("pause")
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def eof_received(self) -> None:
        self.events.append("end")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")


@dataclass
class ByHand:
    """A client that sends what its test takes from ``outgoing``, when the test does."""

    tls: ssl.SSLObject
    outgoing: ssl.MemoryBIO
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass
class Server:
    """A server in this event loop, and what has happened at it."""

    port: int
    client: ssl.SSLContext
    made: list[Echo] = field(default_factory=list)
    ends: list[Exception | None] = field(default_factory=list)
    handshakes: list[TlsHandshake] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.client, server_hostname="host-a"
        )

    async def connect_by_hand(self) -> ByHand:
        """A client with the end of its handshake still to send."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.client.wrap_bio(incoming, outgoing, server_hostname="host-a")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
            else:
                return ByHand(tls, outgoing, reader, writer)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110, the conditions are many
            await asyncio.sleep(0.002)


def _same(protocol: TlsHandshake) -> TlsHandshake:
    return protocol


@asynccontextmanager
async def server(
    folder: Path, rates: Rates = WIDE, seconds: float = 30.0, protocol: Callable[[], Echo] = Echo
) -> AsyncGenerator[Server, None]:
    """``protocol`` makes the protocol of each connection."""
    authority = Authority.make(folder)
    context = Credentials(authority.issue("host-a")).server
    loop = asyncio.get_running_loop()
    handshakes = Handshakes(rates)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        found = Server(listener.getsockname()[1], authority.client("host-b").context)

        class Noted(ssl.SSLObject):
            def do_handshake(self) -> None:
                found.threads.add(threading.get_ident())
                super().do_handshake()

        context.sslobject_class = Noted

        def echo() -> Echo:
            found.made.append(protocol())
            return found.made[-1]

        async def accept() -> None:
            while True:
                connection, _ = await loop.sock_accept(listener)
                first = TlsHandshake(
                    handshakes, context, "party", seconds, lambda _: echo(), found.ends.append
                )
                found.handshakes.append(first)
                with contextlib.suppress(OSError):
                    await loop.connect_accepted_socket(functools.partial(_same, first), connection)

        accepting = asyncio.create_task(accept())
        try:
            yield found
        finally:
            accepting.cancel()
            for each in found.handshakes:
                each.give_up()
            handshakes.close()


def within(test: Callable[[], Awaitable[None]]) -> None:
    """Run with uvloop, as agents do."""

    async def limited() -> None:
        async with asyncio.timeout(600):
            await test()

    event_loop.run(limited())
