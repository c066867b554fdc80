"""One client of the helper's socket: reads and writes, and leaves the rest to `protocol`."""

from __future__ import annotations

import array
import contextlib
import math
import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Final

from holdover.helper.protocol import ProtocolError, Request, ServerProtocol, State
from holdover.scsi.command import Response

__all__ = ["Connection", "ConnectionEnded", "Peer"]

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_TIME: Final = struct.Struct("ll")  # struct timeval: seconds, microseconds
_INT: Final = array.array("i").itemsize
# Room for two: one too many is seen, and the kernel closes what does not fit (MSG_CTRUNC).
_ANCILLARY: Final = socket.CMSG_SPACE(2 * _INT)
_SOON_MS: Final = 100


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end when it connected (SO_PEERCRED).

    Attributes:
        pid: Its process, 0 where that is not of this PID namespace.
        uid: Its user.
        gid: Its group.
        since: When it had connected, seconds since the system was started. A process that began later is
            another one, to which its number was given.
    """

    pid: int
    uid: int
    gid: int
    since: float = field(default=math.inf, compare=False)


class ConnectionEnded(Exception):
    """The client has hung up or cannot be reached; nothing is owed to it."""


class Connection:
    """A client's socket and where its protocol stands. In the hands of one thread at any time.

    Attributes:
        peer: Who the client is.
        number: The socket's descriptor.
        deadline: Until when the client has to go on with what it has begun, as `time.monotonic` tells it;
            None where it has begun nothing. For whoever watches the time.
    """

    __slots__ = ("_protocol", "_socket", "_unsent", "deadline", "number", "peer")

    def __init__(self, client: socket.socket, patience: float) -> None:
        """``patience``: for how many seconds `next_request` may wait for a client to begin something.

        Raises:
            OSError: The client has gone already.
        """
        # The system's own limit: Python's would be one more system call for each read.
        client.settimeout(None)
        seconds, rest = divmod(patience, 1)
        limit = _TIME.pack(int(seconds), round(rest * 1e6))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(credentials)
        self.peer = Peer(pid, uid, gid, time.clock_gettime(time.CLOCK_BOOTTIME))
        self.number = client.fileno()
        self.deadline: float | None = None
        self._socket = client
        self._protocol = ServerProtocol()
        self._unsent = b""

    @property
    def sent(self) -> bool:
        """Whether the client has taken all that was to be sent."""
        return not self._unsent

    @property
    def idle(self) -> bool:
        """Whether the client has begun nothing that it must go on with."""
        return self._protocol.idle

    @property
    def where(self) -> str:
        """What the client is in the middle of, for a message."""
        return self._protocol.state.name.lower()

    def next_request(self, wait: bool) -> Request | None:
        """Read what comes next; the command once it is whole, None while it is not.

        Raises:
            BlockingIOError: Nothing has come; if ``wait``, within the patience, or for a moment where the
                client has begun something.
            ConnectionEnded: The client has hung up.
            ProtocolError: The client has broken the protocol.
        """
        protocol = self._protocol
        waiting = wait and protocol.idle
        flags = socket.MSG_CMSG_CLOEXEC if waiting else socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        try:
            data, ancillary, said, _ = self._socket.recvmsg(protocol.wanted, _ANCILLARY, flags)
        except BlockingIOError:
            if waiting or not wait or not self._goes_on():
                raise
            return None
        except OSError as error:
            raise ConnectionEnded(error.strerror) from error
        protocol.receive(data, _descriptors(ancillary) if ancillary else ())
        if said & socket.MSG_CTRUNC:
            raise ProtocolError("more descriptors than one, or more than this process may open")
        if protocol.state is State.CLOSED:
            raise ConnectionEnded("hung up")
        requests = protocol.events_received()
        return requests[0] if requests else None

    def _goes_on(self) -> bool:
        """Whether the rest of what the client has begun comes soon."""
        poller = select.poll()
        poller.register(self.number, select.POLLIN)
        return bool(poller.poll(_SOON_MS))

    def answer(self, response: Response) -> None:
        """Answer the command that is under way, as `flush` does."""
        self._protocol.send_response(response)
        self.flush()

    def flush(self) -> None:
        """Send as much as the client takes now of what is to be sent; one that has gone takes all."""
        unsent = self._unsent + self._protocol.data_to_send()
        try:
            while unsent:
                unsent = unsent[self._socket.send(unsent, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            pass
        except OSError:
            unsent = b""  # the next read tells
        self._unsent = unsent

    def stop_reading(self) -> None:
        """Take nothing more from the client. For any thread, whoever has the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def hang_up(self) -> None:
        """Let the client see the end. For any thread, whoever has the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, and every descriptor that came and was not handed on."""
        self._socket.close()
        for descriptor in self._protocol.release():
            os.close(descriptor)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(payload[: len(payload) // _INT * _INT])
    return found.tolist()
