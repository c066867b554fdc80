"""The messages of libvirt's lock protocol, which its ``lockd`` plugin speaks with virtlockd.

A message is its length (which counts itself), a header of six integers, and a body. libvirt's
``src/locking/lock_protocol.x`` and ``src/rpc/virnetprotocol.x`` define the layouts.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from holdover.libvirt.xdr import XdrError, XdrReader, optional_string, pack_string, pack_uint

PROGRAM: Final = 0xEA7BEEF
VERSION: Final = 1
STRING_MAX: Final = 65536
LENGTH_BYTES: Final = 4
_HEADER: Final = struct.Struct(">6I")
HEADER_BYTES: Final = _HEADER.size
_UUID_BYTES: Final = 16
_ERROR_STRING_MAX: Final = 4194304

LARGEST_CALL: Final = LENGTH_BYTES + HEADER_BYTES + 2 * (4 + STRING_MAX) + 4
"""The bytes of the largest call of this protocol: two strings and flags."""
LARGEST_REPLY: Final = 1 << 20
"""The bytes of the largest reply that a client takes; an error has one sentence."""

OWNER_ASKS: Final = 1 << 31
"""The flag of a REGISTER by which the lock server says to the agent that the owner itself asks. libvirt's
REGISTER has no flags."""

# virterror.h: what libvirt's clients show is the message; the numbers say what kind of error it is.
_OPERATION_FAILED: Final = 9
_FROM_LOCKING: Final = 42
_LEVEL_ERROR: Final = 2


class MessageType(IntEnum):
    """The type of a message, as far as this protocol uses it."""

    CALL = 0
    REPLY = 1


class Procedure(IntEnum):
    """What a call asks for."""

    REGISTER = 1
    RESTRICT = 2
    NEW = 3
    CREATE_RESOURCE = 4
    DELETE_RESOURCE = 5
    ACQUIRE = 6
    RELEASE = 7
    CREATE_LOCKSPACE = 8


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a message; ``status`` is 0, or 1 for a reply that is an error."""

    procedure: int
    type: int
    serial: int
    status: int = 0
    program: int = PROGRAM
    version: int = VERSION

    def encode(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(self.program, self.version, self.procedure, self.type, self.serial, self.status)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """The header in the first `HEADER_BYTES` of ``data``."""
        program, version, procedure, kind, serial, status = _HEADER.unpack(data[:HEADER_BYTES])
        return cls(procedure, kind, serial, status, program, version)


@dataclass(frozen=True, slots=True)
class Register:
    """Names the domain that all later calls of the connection are about; ``pid`` is its QEMU's."""

    uuid: uuid.UUID
    name: str
    id: int
    pid: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Restrict:
    """Allows nothing more on this connection, which a QEMU inherits."""

    flags: int = 0


@dataclass(frozen=True, slots=True)
class New:
    """Makes a lockspace in a folder."""

    path: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class CreateResource:
    """Makes a resource in a lockspace."""

    path: str
    name: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class DeleteResource:
    """Removes a resource from a lockspace."""

    path: str
    name: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class AcquireResource:
    """Asks for a lock on a resource of the registered domain, which is about to run."""

    path: str
    name: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class ReleaseResource:
    """Gives back a lock on a resource of the registered domain, which has stopped."""

    path: str
    name: str
    flags: int = 0


@dataclass(frozen=True, slots=True)
class CreateLockspace:
    """Makes a lockspace in a folder, for clients that have no domain."""

    path: str


_OnResource = CreateResource | DeleteResource | AcquireResource | ReleaseResource
Request = Register | Restrict | New | _OnResource | CreateLockspace

_PROCEDURE_OF: Mapping[type[Request], Procedure] = {
    Register: Procedure.REGISTER,
    Restrict: Procedure.RESTRICT,
    New: Procedure.NEW,
    CreateResource: Procedure.CREATE_RESOURCE,
    DeleteResource: Procedure.DELETE_RESOURCE,
    AcquireResource: Procedure.ACQUIRE,
    ReleaseResource: Procedure.RELEASE,
    CreateLockspace: Procedure.CREATE_LOCKSPACE,
}


def _register(body: XdrReader) -> Register:
    owner = uuid.UUID(bytes=body.opaque(_UUID_BYTES))
    return Register(owner, body.string(STRING_MAX), body.uint(), body.uint(), body.uint())


def _on_resource(kind: type[_OnResource]) -> Callable[[XdrReader], _OnResource]:
    return lambda body: kind(body.string(STRING_MAX), body.string(STRING_MAX), body.uint())


_READ: Mapping[Procedure, Callable[[XdrReader], Request]] = {
    Procedure.REGISTER: _register,
    Procedure.RESTRICT: lambda body: Restrict(body.uint()),
    Procedure.NEW: lambda body: New(body.string(STRING_MAX), body.uint()),
    Procedure.CREATE_RESOURCE: _on_resource(CreateResource),
    Procedure.DELETE_RESOURCE: _on_resource(DeleteResource),
    Procedure.ACQUIRE: _on_resource(AcquireResource),
    Procedure.RELEASE: _on_resource(ReleaseResource),
    Procedure.CREATE_LOCKSPACE: lambda body: CreateLockspace(body.string(STRING_MAX)),
}


def decode_request(procedure: int, body: bytes) -> Request:
    """The request in the body of a call.

    Raises:
        XdrError: There is no such procedure, or the body is not its arguments.
    """
    try:
        known = Procedure(procedure)
    except ValueError:
        raise XdrError(f"unknown procedure: {procedure}") from None
    reader = XdrReader(body)
    request = _READ[known](reader)
    reader.end()
    return request


def encode_call(serial: int, request: Request) -> bytes:
    """The bytes of a call."""
    header = Header(_PROCEDURE_OF[type(request)], MessageType.CALL, serial)
    return _message(header, _arguments(request))


def _arguments(request: Request) -> bytes:
    match request:
        case Register():
            owner = request.uuid.bytes + pack_string(request.name)
            return owner + b"".join(map(pack_uint, (request.id, request.pid, request.flags)))
        case Restrict():
            return pack_uint(request.flags)
        case New():
            return pack_string(request.path) + pack_uint(request.flags)
        case CreateLockspace():
            return pack_string(request.path)
        case _:
            return pack_string(request.path) + pack_string(request.name) + pack_uint(request.flags)


def encode_reply(call: Header, error: str = "") -> bytes:
    """The bytes of the reply to a call; ``error`` is what libvirt shows to its user, empty for a yes."""
    header = Header(
        call.procedure, MessageType.REPLY, call.serial, int(bool(error)), call.program, call.version
    )
    return _message(header, _error(error) if error else b"")


def _error(text: str) -> bytes:
    numbers = (_OPERATION_FAILED, _FROM_LOCKING)
    absent = pack_uint(0)
    parts = [
        *map(pack_uint, numbers),
        optional_string(text),
        pack_uint(_LEVEL_ERROR),
        absent,  # the domain
        optional_string(text),  # str1, the text alone
        absent,
        absent,
        pack_uint(0),
        pack_uint(0),
        absent,  # the network
    ]
    return b"".join(parts)


def decode_error(body: bytes) -> str:
    """The message in the body of an error.

    Raises:
        XdrError: The body is no error.
    """
    reader = XdrReader(body)
    reader.uint()
    reader.uint()
    return reader.optional_string(_ERROR_STRING_MAX)


def _message(header: Header, body: bytes) -> bytes:
    return pack_uint(LENGTH_BYTES + HEADER_BYTES + len(body)) + header.encode() + body
