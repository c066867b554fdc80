"""Both ends of a connection of libvirt's lock protocol, without I/O: bytes in, calls or replies out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdover.libvirt.lock_protocol import (
    HEADER_BYTES,
    LARGEST_CALL,
    LARGEST_REPLY,
    LENGTH_BYTES,
    PROGRAM,
    VERSION,
    CreateLockspace,
    Header,
    MessageType,
    Register,
    Request,
    Restrict,
    decode_error,
    decode_request,
    encode_call,
    encode_reply,
)
from holdover.libvirt.xdr import XdrError


class LockProtocolError(Exception):
    """The other end does not speak the lock protocol; close the connection."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call to answer.

    Attributes:
        header: The header, which the reply repeats.
        request: What is asked; None if that cannot be read.
        owner: The domain that the call is about; None for a client that has none.
        problem: Why the call must be refused, whatever the policy says; empty if it need not.
    """

    header: Header
    request: Request | None
    owner: Register | None = None
    problem: str = ""

    def reply(self, error: str = "") -> bytes:
        """The bytes of the reply: an error with this text, or yes if there is none."""
        return encode_reply(self.header, error)


@dataclass(frozen=True, slots=True)
class LockReply:
    """The reply to a client's call; ``error`` is empty for a yes."""

    serial: int
    error: str = ""


class _Frames:
    """Cuts a stream of bytes into messages, none of them longer than ``largest``."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._buffer = bytearray()

    @property
    def idle(self) -> bool:
        """Whether no message has begun that is not complete."""
        return not self._buffer

    def messages(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            if not LENGTH_BYTES + HEADER_BYTES <= length <= self._largest:
                raise LockProtocolError(f"a message of {length} bytes")
            if len(self._buffer) < length:
                return
            message = bytes(self._buffer[LENGTH_BYTES:length])
            del self._buffer[:length]
            yield Header.decode(message), message[HEADER_BYTES:]


class LockConnection:
    """The server's end of a connection; it knows which calls are in order, as virtlockd does.

    Attributes:
        owner: The domain that the connection is about, once it has registered.
        restricted: Whether nothing more is allowed on it.
    """

    def __init__(self) -> None:
        self.owner: Register | None = None
        self.restricted = False
        self._frames = _Frames(LARGEST_CALL)

    @property
    def idle(self) -> bool:
        """Whether the client has begun no call that it must complete."""
        return self._frames.idle

    def receive(self, data: bytes) -> list[Call]:
        """The calls that ``data`` completes.

        Raises:
            LockProtocolError: These are no calls of this protocol. Answer no call of ``data``.
        """
        return [self._call(header, body) for header, body in self._frames.messages(data)]

    def _call(self, header: Header, body: bytes) -> Call:
        if header.type != MessageType.CALL:
            raise LockProtocolError(f"a message of type {header.type}, which is no call")
        if (header.program, header.version) != (PROGRAM, VERSION):
            known = f"{PROGRAM:#x} version {VERSION}"
            problem = f"program {header.program:#x} version {header.version} is not served here, but {known}"
            return Call(header, None, problem=problem)
        try:
            request = decode_request(header.procedure, body)
        except XdrError as error:
            return Call(header, None, self.owner, str(error))
        problem = self._out_of_order(request)
        if not problem:
            self._follow(request)
        return Call(header, request, self.owner, problem)

    def _out_of_order(self, request: Request) -> str:
        if self.restricted:
            return "the lock manager's connection has been restricted"
        if isinstance(request, Register):
            return "the lock's owner has been registered already" if self.owner is not None else ""
        if self.owner is None and not isinstance(request, CreateLockspace):
            return "the lock's owner has not been registered"
        return ""

    def _follow(self, request: Request) -> None:
        if isinstance(request, Register):
            self.owner = request
        elif isinstance(request, Restrict):
            self.restricted = True


class LockClient:
    """The client's end of a connection, as libvirt's plugin has it."""

    def __init__(self) -> None:
        self._serial = 0
        self._frames = _Frames(LARGEST_REPLY)

    def call(self, request: Request) -> bytes:
        """The bytes of the next call."""
        self._serial += 1
        return encode_call(self._serial, request)

    def receive(self, data: bytes) -> list[LockReply]:
        """The replies that ``data`` completes.

        Raises:
            LockProtocolError: These are no replies of this protocol.
        """
        return [self._reply(header, body) for header, body in self._frames.messages(data)]

    def _reply(self, header: Header, body: bytes) -> LockReply:
        if header.type != MessageType.REPLY or (header.program, header.version) != (PROGRAM, VERSION):
            raise LockProtocolError("what answers is no lock manager")
        if header.status == 0:
            return LockReply(header.serial)
        try:
            return LockReply(header.serial, decode_error(body) or "an error without a text")
        except XdrError as error:
            raise LockProtocolError(f"an error that cannot be read: {error}") from error
