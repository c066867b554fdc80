"""An established TLS connection, as an asyncio transport over the transport of its TCP connection.

The event loops' own TLS carries out the handshake in the loop. `tls_handshake` carries it out in a thread.
What follows takes microseconds for each message, and is done here, in the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Final, cast

import structlog

from holdover.network.receive_buffer import receive_buffer
from holdover.network.tls_records import whole_records

log = structlog.get_logger()

_CLOSE_SECONDS = 2.0
"""How long a client may take to read what is left when the connection is closed."""
_RECORD_BYTES: Final = 16384
"""The most that a record of TLS holds (RFC 8446 5.1)."""
_READ_BYTES: Final = 65536
"""The most that is received in one turn of the loop, so that a fast client does not hold it for long."""
_RECORDS: Final = 64
"""The most records that are decrypted in one turn of the loop. Each takes time, even if it holds one byte."""


class TlsChannel:
    """The TLS state of a connection, between two buffers of encrypted bytes.

    Attributes:
        tls: The TLS state itself; ``incoming`` and ``outgoing`` are its buffers.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)


class TlsTransport(asyncio.Transport):
    """What a connection's protocol sends and receives through, unencrypted."""

    def __init__(self, transport: asyncio.Transport, channel: TlsChannel, protocol: asyncio.Protocol) -> None:
        """``transport``: that of the TCP connection, which belongs to this one from now on."""
        super().__init__()
        self._transport = transport
        self._channel = channel
        self._protocol = protocol
        self._encrypted = bytearray()
        """What was received and waits for its turn; it begins with a record. OpenSSL gets the records of one
        turn alone: it takes any number of changes of keys in one call."""
        self._next: asyncio.Handle | None = None
        """The next turn, while there is one. The TCP connection is not read until then."""
        self._paused = False
        self._closing = False
        self._cut: asyncio.TimerHandle | None = None

    def begin(self, received: bytes | bytearray) -> None:
        """Tell the protocol that the connection is made, and hand over what has come already: what is left in
        the channel, and after it ``received``.
        """
        self._encrypted += self._channel.incoming.read()
        self._encrypted += received
        # The transport looks at a protocol's methods once, when it is set.
        self._transport.set_protocol(_Encrypted(self, asyncio.get_running_loop()))
        self._protocol.connection_made(self)
        self._take_turn()

    # What comes in

    def received(self, encrypted: memoryview) -> None:
        """Take what has come on the TCP connection."""
        self._encrypted += encrypted
        self._take_turn(there_may_be_more=len(encrypted) == _READ_BYTES)

    def _take_turn(self, *, there_may_be_more: bool = False) -> None:
        """Hand the next records to the protocol. If these are not all, or if there may be more to receive in
        this turn of the loop, go on in the next turn.
        """
        self._decrypt()
        if self._paused or self.is_closing():
            return
        if there_may_be_more or whole_records(self._encrypted, 1):
            self._transport.pause_reading()
            self._take_turn_soon()
        else:
            self._transport.resume_reading()

    def _take_turn_soon(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._take_next_turn)

    def _take_next_turn(self) -> None:
        self._next = None
        # If there are records, the TCP connection has its turn after this one.
        has_records = self._channel.incoming.pending > 0 or whole_records(self._encrypted, 1) > 0
        try:
            self._take_turn(there_may_be_more=has_records)
        except BaseException:
            self.abort()  # as the event loop does if `received` raises
            raise

    def _decrypt(self) -> None:
        """Hand the records of one turn to the protocol, until the protocol pauses."""
        tls, incoming, outgoing = self._channel.tls, self._channel.incoming, self._channel.outgoing
        if not incoming.pending:  # those of a turn amid which the protocol has paused
            whole = whole_records(self._encrypted, _RECORDS)
            incoming.write(self._encrypted[:whole])
            del self._encrypted[:whole]
        while not self._paused and not self.is_closing():
            try:
                data = tls.read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                log.warning(
                    "A connection has ended after an error of TLS.", reason=error.reason or str(error)
                )
                self.abort()
                return
            if not data:
                self._protocol.eof_received()
                self.close()
                return
            self._protocol.data_received(data)
        if outgoing.pending and not self.is_closing():
            self._transport.write(outgoing.read())  # TLS's own: an answer to a change of keys

    def ended(self) -> None:
        """Take note that the client sends nothing more. TLS has no half-closed connections: it ends."""
        if not self._closing:
            self._protocol.eof_received()
            self.close()

    def lost(self, error: Exception | None) -> None:
        """Take note that the TCP connection has ended."""
        self._closing = True
        for each in (self._cut, self._next):
            if each is not None:
                each.cancel()
        self._protocol.connection_lost(error)

    def set_paused(self, *, writing: bool) -> None:
        """Pass on whether the protocol should pause ``writing``."""
        if writing:
            self._protocol.pause_writing()
        else:
            self._protocol.resume_writing()

    def pause_reading(self) -> None:
        """Hand nothing more to the protocol."""
        self._paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""
        if self._paused and not self.is_closing():
            self._paused = False
            self._take_turn_soon()  # what was received comes first

    def is_reading(self) -> bool:
        """Whether the protocol gets what comes."""
        return not self._paused and not self.is_closing()

    # What goes out

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send, without waiting."""
        if self.is_closing():
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._channel.tls.write(rest) :]
        except ssl.SSLError as error:
            log.warning("A connection has ended after an error of TLS.", reason=error.reason or str(error))
            self.abort()
            return
        self._transport.write(self._channel.outgoing.read())

    def close(self) -> None:
        """Send what is left and the end of TLS (RFC 8446 6.1), and close. The client's end is not awaited."""
        if self.is_closing():
            return
        self._closing = True
        with contextlib.suppress(ssl.SSLError):  # the client's end of TLS has not come
            self._channel.tls.unwrap()
        self._transport.write(self._channel.outgoing.read())
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._cut = asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._closing or self._transport.is_closing()

    def can_write_eof(self) -> bool:
        """False: TLS has no half-closed connections."""
        return False

    def get_write_buffer_size(self) -> int:
        """The number of bytes that are not sent yet."""
        return self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The numbers of bytes at which the protocol goes on, and pauses."""
        return self._transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set these numbers."""
        self._transport.set_write_buffer_limits(high, low)

    # Whose it is

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection: that of TLS, and that of the TCP connection."""
        if name == "ssl_object":
            return self._channel.tls
        if name == "sslcontext":
            return self._channel.tls.context
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what comes to another protocol from now on."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that gets what comes."""
        return self._protocol


class _Encrypted(asyncio.BufferedProtocol):
    """The TCP connection's protocol: it passes what comes to a `TlsTransport`."""

    def __init__(self, transport: TlsTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._buffer = receive_buffer(loop)[:_READ_BYTES]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002, the name is asyncio's
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.received(self._buffer[:nbytes])

    def eof_received(self) -> None:
        self._transport.ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport.lost(exc)

    def pause_writing(self) -> None:
        self._transport.set_paused(writing=True)

    def resume_writing(self) -> None:
        self._transport.set_paused(writing=False)
