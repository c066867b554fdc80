"""The stream to a peer: messages of handovers, and requests to run a guest, on a connection that was opened
and authenticated beforehand.

A request of HTTP costs a third of a millisecond more in both processes together, while the guest stands
still. Any number of messages may be under way. Whoever cannot use the stream sends a request instead.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from typing import Self, cast

from holdover.api.keep_alive import keep_alive
from holdover.api.message_frames import Frame, FrameError, FrameKind, FrameReader
from holdover.pki.tls import STREAM

MOST_UNDER_WAY = 32
"""The most messages of one stream whose answers have not come. More go by requests."""

_CONNECT_SECONDS = 10.0


class StreamLost(Exception):
    """The stream is over. The message may have been handled, or not."""


class NoStream(Exception):
    """There is no stream to that agent; the text says why."""


class MessageStream(asyncio.Protocol):
    """The client's end of one stream; `open` makes it."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext, name: str | None) -> Self:
        """Connect; ``name`` must be in the other agent's certificate.

        Raises:
            NoStream: The other agent has no streams, or cannot be reached.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                transport, made = await loop.create_connection(
                    cls, host, port, ssl=context, server_hostname=name or host
                )
        except (OSError, TimeoutError) as error:
            raise NoStream(str(error) or type(error).__name__) from error
        tls = transport.get_extra_info("ssl_object")
        if tls is None or tls.selected_alpn_protocol() != STREAM:
            transport.abort()
            raise NoStream("the agent is of a version without streams")
        keep_alive(transport.get_extra_info("socket"))
        return made

    @property
    def has_room(self) -> bool:
        """Whether a message may be sent now."""
        return self._is_open and len(self._waiting) < MOST_UNDER_WAY

    @property
    def has_room_to_wait(self) -> bool:
        """Whether a message may be sent now whose answer may take a second; half the room is for others."""
        return self._is_open and len(self._waiting) < MOST_UNDER_WAY // 2

    @property
    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, body: bytes, kind: FrameKind = FrameKind.MESSAGE) -> Frame:
        """Send a message, or what else ``kind`` says, and return the frame with the answer or the problem.

        If this is cancelled, the stream is closed: it may be that it does not work any more.

        Raises:
            StreamLost: The stream is over.
        """
        if self._transport is None or self._transport.is_closing():
            raise StreamLost("it is closed")
        number = next(self._numbers) & 0xFFFFFFFF
        answered: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        self._transport.write(Frame(number, kind, body).encode())
        try:
            return await answered
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Close the stream; messages under way end with `StreamLost`."""
        if self._transport is not None:
            self._transport.abort()
        self._lose("it was closed")

    # -- what asyncio calls ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio.Transport
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                answered = self._waiting.get(frame.number)
                if answered is not None and not answered.done():
                    answered.set_result(frame)
        except FrameError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc or "the other agent closed it"))

    def _lose(self, why: str) -> None:
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(StreamLost(why))
