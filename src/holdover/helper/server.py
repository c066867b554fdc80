"""The helper's server: asyncio around `protocol`, for a handler that carries the commands out.

Each connection has one command at a time; all connections are served at once. A client that breaks the
protocol is disconnected and logged, and nobody else notices.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from holdover.helper.listener import Listener
from holdover.helper.protocol import ProtocolError, Request, ServerProtocol, State
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import OperationCode
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

__all__ = ["Handler", "HelperServer", "Peer"]

log = structlog.get_logger()

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_INT: Final = array.array("i").itemsize
# Room for two: one too many is seen, and the kernel closes what does not fit (MSG_CTRUNC).
_ANCILLARY: Final = socket.CMSG_SPACE(2 * _INT)
_ACCEPTED_AT_ONCE: Final = 64
_ACCEPT_PAUSE: Final = 0.5
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_READ_ONLY = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_COMMAND_OPERATION_CODE)
_FAILED = check_condition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end when it connected (SO_PEERCRED).

    Attributes:
        pid: Its process, 0 where that is not of this PID namespace.
        uid: Its user.
        gid: Its group.
    """

    pid: int
    uid: int
    gid: int


Handler = Callable[[Peer, int, Command], Awaitable[Response]]
"""Carries out one PERSISTENT RESERVE command on the device that the descriptor stands for.

The descriptor is the server's: it is closed when the handler has ended, and whoever needs it longer
duplicates it.
"""


class HelperServer:
    """Serves every client of one listening socket."""

    def __init__(self, listener: Listener, handle: Handler, silence: float = 30.0) -> None:
        """``listener`` is the server's from now on.

        ``silence``: seconds after which a client that has begun something and does not go on is
        disconnected. It may be the client's own end of the connection that it has sent as a descriptor:
        that connection never ends by itself.
        """
        self._listener = listener
        self._handle = handle
        self.silence = silence
        self._connections: set[_Connection] = set()
        self._commands: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._accepting = False

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def start(self) -> None:
        """Take connections; to be called in the event loop that will serve them."""
        self._pause = None
        self._accepting = True
        asyncio.get_running_loop().add_reader(self._listener.socket, self._accept)

    async def close(self, limit: float = 5.0) -> None:
        """Take no more connections or commands; let the commands under way end, for ``limit`` seconds."""
        if self._pause is not None:
            self._pause.cancel()
        self._stop_accepting()
        self._listener.close()
        for connection in tuple(self._connections):
            connection.finish()
        if self._commands:
            await asyncio.wait(self._commands, timeout=limit)
        for command in tuple(self._commands):
            command.cancel()
        if self._commands:
            await asyncio.wait(self._commands)
        for connection in tuple(self._connections):
            connection.drop()

    def _stop_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._listener.socket)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, _ = self._listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                # the listener stays readable: without a pause the loop would do nothing else
                log.error("no more connections for a moment", error=error.strerror)
                self._stop_accepting()
                self._pause = asyncio.get_running_loop().call_later(_ACCEPT_PAUSE, self.start)
                return
            client.setblocking(False)
            _Connection(self, client).start()

    def admit(self, connection: _Connection) -> None:
        """A connection has begun."""
        self._connections.add(connection)

    def dismiss(self, connection: _Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def carry_out(self, connection: _Connection, request: Request) -> None:
        """Begin a command; its response goes to ``connection``."""
        command = asyncio.get_running_loop().create_task(self._carry_out(connection, request))
        self._commands.add(command)
        command.add_done_callback(self._commands.discard)
        # not within the task: one that is cancelled before it begins does nothing at all
        command.add_done_callback(lambda _: os.close(request.descriptor))

    async def _carry_out(self, connection: _Connection, request: Request) -> None:
        connection.answer(await self._response(connection.peer, request))

    async def _response(self, peer: Peer, request: Request) -> Response:
        if request.command.opcode == OperationCode.PERSISTENT_RESERVE_OUT and _read_only(request.descriptor):
            # whoever may only read must not shut others out
            return _READ_ONLY
        try:
            return await self._handle(peer, request.descriptor, request.command)
        except Exception:
            log.exception("a command failed unexpectedly", pid=peer.pid)
            return _FAILED


class _Connection:
    """One client: reads and writes when the socket allows, and leaves the rest to `ServerProtocol`."""

    def __init__(self, server: HelperServer, client: socket.socket) -> None:
        self._server = server
        self._socket = client
        self._loop = asyncio.get_running_loop()
        self._protocol = ServerProtocol()
        self._unsent = b""
        self._reading = False
        self._writing = False
        self._finishing = False
        self._open = True
        self._silence: asyncio.TimerHandle | None = None
        self.peer = Peer(0, 0, 0)

    def start(self) -> None:
        """Greet the client."""
        self._server.admit(self)
        try:
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError as error:
            self._lose(error)
            return
        self.peer = Peer(*_CREDENTIALS.unpack(credentials))
        log.debug("client connected", pid=self.peer.pid, uid=self.peer.uid)
        self._listen(True)
        self._watch()
        self._flush()

    def finish(self) -> None:
        """Take no further command; drop the connection at once, or when its command is answered."""
        self._finishing = True
        if self._protocol.state is not State.BUSY:
            self.drop()

    def drop(self) -> None:
        """Close the connection and every descriptor that it still has."""
        if not self._open:
            return
        self._open = False
        self._listen(False)
        if self._silence is not None:
            self._silence.cancel()
        if self._writing:
            self._loop.remove_writer(self._socket)
        self._socket.close()
        for descriptor in self._protocol.release():
            os.close(descriptor)
        self._server.dismiss(self)

    def answer(self, response: Response) -> None:
        """Send the answer of the command under way; nothing when the client has gone."""
        if not self._open:
            return
        self._protocol.send_response(response)
        self._flush()
        if self._finishing and self._open and not self._unsent:
            self.drop()
        elif self._open and not self._reading:
            self._listen(True)

    def _listen(self, wanted: bool) -> None:
        if wanted and not self._reading:
            self._loop.add_reader(self._socket, self._readable)
        elif self._reading and not wanted:
            self._loop.remove_reader(self._socket)
        self._reading = wanted

    def _readable(self) -> None:
        wanted = self._protocol.wanted
        if wanted == 0 or self._unsent:
            # not the client's turn: what it has sent, or its end, waits until it is
            self._listen(False)
            return
        try:
            data, descriptors, cut = _receive(self._socket, wanted)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        try:
            self._protocol.receive(data, descriptors)
            if cut:
                raise ProtocolError("more descriptors than one, or more than this process may open")
        except ProtocolError as error:
            self._blame(error.problem)
            return
        for request in self._protocol.events_received():
            self._server.carry_out(self, request)
        if self._protocol.state is State.CLOSED:
            log.debug("client disconnected", pid=self.peer.pid)
            self.drop()
        else:
            self._watch()

    def _watch(self) -> None:
        """Have the client go on where it has begun something."""
        begun = self._protocol.state is not State.BUSY and not self._protocol.idle
        if begun and self._silence is None:
            self._silence = self._loop.call_later(self._server.silence, self._give_up)
        elif self._silence is not None and not begun:
            self._silence.cancel()
            self._silence = None

    def _give_up(self) -> None:
        self._blame(f"half of {self._protocol.state.name.lower()} and then silence")

    def _blame(self, problem: str) -> None:
        log.warning("client broke the protocol", pid=self.peer.pid, uid=self.peer.uid, problem=problem)
        self.drop()

    def _flush(self) -> None:
        """Send what is to be sent; what the socket does not take waits for it."""
        self._unsent += self._protocol.data_to_send()
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent, socket.MSG_NOSIGNAL) :]
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._socket, self._writable)
        except OSError as error:
            self._lose(error)

    def _writable(self) -> None:
        self._writing = False
        self._loop.remove_writer(self._socket)
        self._flush()
        if self._open and not self._unsent:
            if self._finishing:
                self.drop()
            else:
                self._listen(True)

    def _lose(self, error: OSError) -> None:
        log.debug("client lost", pid=self.peer.pid, error=error.strerror)
        self.drop()


def _receive(client: socket.socket, length: int) -> tuple[bytes, list[int], bool]:
    """Up to ``length`` bytes, the descriptors that came beside them, and whether some did not fit."""
    data, ancillary, flags, _ = client.recvmsg(length, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) // _INT * _INT])
    return data, descriptors.tolist(), bool(flags & socket.MSG_CTRUNC)


def _read_only(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
