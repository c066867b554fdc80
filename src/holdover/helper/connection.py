"""One client of the helper's socket: reads and writes; `protocol` decides everything else."""

from __future__ import annotations

import array
import contextlib
import errno
import math
import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Final

from holdover.helper.clients import ClientPlace
from holdover.helper.process import start_time
from holdover.helper.protocol import HelperProtocolError, HelperRequest, ServerProtocol, State
from holdover.scsi.command import Response

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_TIME: Final = struct.Struct("ll")  # struct timeval: seconds, microseconds
_SO_PEERSEC: Final = 31
_SO_PEERPIDFD: Final = 77
_CANNOT_TELL: Final = frozenset({errno.ENOPROTOOPT, errno.EMFILE, errno.ENFILE})
_LABEL_BYTES: Final = 4096
_INT: Final = array.array("i").itemsize
# Room for two descriptors: one too many is noticed. The kernel closes what does not fit (MSG_CTRUNC).
_ANCILLARY: Final = socket.CMSG_SPACE(2 * _INT)
_SOON_MS: Final = 100


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of the socket, at the time when it connected (SO_PEERCRED).

    Attributes:
        pid: The process's number; 0 if the process is not in this PID namespace.
        uid: The process's user.
        gid: The process's group.
        since: The time when the client had connected, in seconds since the system was started. A process
            with the same number that began later is another process.
        started: The time when the process itself began, as `start_time` gives it. NaN, which equals no
            process's time, if the process has ended already. None if the kernel cannot tell (before Linux
            6.5).
        label: The process's security label (SO_PEERSEC); empty if the kernel has none.
    """

    pid: int
    uid: int
    gid: int
    since: float = field(default=math.inf, compare=False)
    started: float | None = field(default=None, compare=False)
    label: str = field(default="", compare=False)

    def is_process(self, started: float) -> bool:
        """Whether a process of the same number, which began at ``started``, is the one that connected."""
        return started <= self.since if self.started is None else started == self.started


class ConnectionEnded(Exception):
    """The client has closed the connection, or cannot be reached. It expects no response any more."""


class Connection:
    """A client's socket and the state of its protocol. One thread at a time uses it.

    Attributes:
        peer: Who the client is.
        place: Its place among the connections that are taken.
        number: The number of the socket's descriptor.
        deadline: The time, as `time.monotonic` gives it, by which the client must continue what it has begun;
            None if it has begun nothing. The server reads this to find clients that are late.
    """

    __slots__ = ("_protocol", "_socket", "_unsent", "deadline", "number", "peer", "place")

    def __init__(self, client: socket.socket, patience: float, place: ClientPlace) -> None:
        """``patience``: the seconds for which `next_request` may wait until a client begins something.

        Raises:
            OSError: The client has gone already.
        """
        # The system's own limit: with Python's, each read would need one more system call.
        client.settimeout(None)
        seconds, rest = divmod(patience, 1)
        limit = _TIME.pack(int(seconds), round(rest * 1e6))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        pid, uid, gid = credentials_of(client)
        since = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.peer = Peer(pid, uid, gid, since, _started(client, pid), _label(client))
        self.place = place
        self.number = client.fileno()
        self.deadline: float | None = None
        self._socket = client
        self._protocol = ServerProtocol()
        self._unsent = b""

    @property
    def sent(self) -> bool:
        """Whether the client has taken everything that was to be sent."""
        return not self._unsent

    @property
    def idle(self) -> bool:
        """Whether the client has begun nothing that it must continue."""
        return self._protocol.idle

    @property
    def greeted(self) -> bool:
        """Whether the client has exchanged the features."""
        return self._protocol.state is not State.FEATURES

    @property
    def where(self) -> str:
        """The name of the protocol's state in which the client is, for a message."""
        return self._protocol.state.name.lower()

    def next_request(self, wait: bool) -> HelperRequest | None:
        """Read once. Returns the command when it is complete, None when more must come.

        Raises:
            BlockingIOError: Nothing has come. With ``wait``, this method has waited for that: until the
                patience was over, or for a moment if the client has begun something.
            ConnectionEnded: The client has closed the connection.
            ConnectionEnded: The client has hung up.
            HelperProtocolError: The client has broken the protocol.
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
            raise HelperProtocolError("more descriptors than one, or more than this process may open")
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
        """Send the response to the command that is under way, as `flush` does."""
        self._protocol.send_response(response)
        self.flush()

    def flush(self) -> None:
        """Send as much of the outstanding data as the client takes now. If the client has gone, drop them."""
        unsent = self._unsent + self._protocol.data_to_send()
        try:
            while unsent:
                unsent = unsent[self._socket.send(unsent, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            pass
        except OSError:
            unsent = b""  # the next read reports the error
        self._unsent = unsent

    def stop_reading(self) -> None:
        """Read nothing more from the client. Any thread may call this, even while another one uses it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def hang_up(self) -> None:
        """End the connection, so that the client sees its end. Any thread may call this at any time."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, and every received descriptor that was not handed on."""
        self._socket.close()
        self.place.leave()
        for descriptor in self._protocol.release():
            os.close(descriptor)


def credentials_of(client: socket.socket) -> tuple[int, int, int]:
    """The number, the user and the group of the process at the other end, when it connected.

    Raises:
        OSError: The client has gone already.
    """
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    return pid, uid, gid


def close_descriptor(descriptor: int) -> None:
    """Close a descriptor that a client has sent."""
    # it is closed even if close() reports an error of the file system
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _started(client: socket.socket, pid: int) -> float | None:
    """The time when the process at the other end began, as in `Peer.started`.

    The kernel gives a pidfd of that very process (SO_PEERPIDFD). As long as the pidfd says that the process
    runs, /proc/PID describes this process, and not a later process with the same number.
    """
    try:
        pidfd = client.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        return None if error.errno in _CANNOT_TELL else math.nan
    try:
        started = start_time(pid)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return math.nan if poller.poll(0) else started
    except OSError:
        return math.nan
    finally:
        os.close(pidfd)


def _label(client: socket.socket) -> str:
    try:
        raw = client.getsockopt(socket.SOL_SOCKET, _SO_PEERSEC, _LABEL_BYTES)
    except OSError:
        return ""
    return raw.rstrip(b"\0\n").decode(errors="replace")


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(payload[: len(payload) // _INT * _INT])
    return found.tolist()
