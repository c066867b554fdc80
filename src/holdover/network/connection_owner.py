"""Which user of this host is at the other end of a TCP connection, as the kernel says it (sock_diag(7))."""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST: Final = struct.Struct("=BBBBI")  # struct inet_diag_req_v2 up to the socket's addresses
_ANSWER: Final = struct.Struct("=xBxx48x12xII")  # struct inet_diag_msg: state, uid, inode
_ESTABLISHED: Final = 1
_ALL_STATES: Final = 0xFFFFFFFF
_NO_COOKIE: Final = b"\xff" * 8
_ANSWER_BYTES: Final = 8192
_ADDRESS_BYTES: Final = 16


def party_of(connection: socket.socket) -> str:
    """The party of a connection, for limits: a user of this host if the kernel knows the user, else an
    address.

    Raises:
        OSError: The connection is closed already.
    """
    peer = connection.getpeername()
    uid = owner_of(connection.family, peer, connection.getsockname())
    return f"address {peer[0]}" if uid is None else f"uid {uid}"


def owner_of(family: int, there: Any, here: Any) -> int | None:
    """The user whose socket has the address ``there`` and is connected to ``here``.

    None if that socket is not in this host's network namespace, or if the kernel does not tell.
    """
    if there[0] != here[0] and not there[0].startswith("127."):
        return None
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        ) as ask:
            ask.setblocking(False)
            ask.send(_request(family, there, here))
            answer = ask.recv(_ANSWER_BYTES)
    except (OSError, ValueError):
        return None
    kind = _HEADER.unpack_from(answer)[1]
    if kind != _SOCK_DIAG_BY_FAMILY or len(answer) < _HEADER.size + _ANSWER.size:
        return None
    state, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    # For a socket that its process has closed, the kernel reports user 0 and inode 0.
    return uid if state == _ESTABLISHED and inode else None


def _request(family: int, there: Any, here: Any) -> bytes:
    addresses = b"".join(
        socket.inet_pton(family, each[0].partition("%")[0]).ljust(_ADDRESS_BYTES, b"\0")
        for each in (there, here)
    )
    socket_id = struct.pack("!HH", there[1], here[1]) + addresses + struct.pack("=I", 0) + _NO_COOKIE
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + socket_id
    length = _HEADER.size + len(request)
    return _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + request
