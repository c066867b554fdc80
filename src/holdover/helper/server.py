"""The helper's server: threads around `protocol`, for a handler that carries the commands out.

Theory of operation. A connection is at any time in one of three hands:

============  ======================================================  =====================================
whose         when                                                    goes on
============  ======================================================  =====================================
the poller    the client is silent, or does not read                  to a thread, when its socket is ready
a thread      the client talks: one thread reads, carries the         to the poller, when nothing comes for
              command out and answers, without help of others         some seconds; or to a turn
a turn        its device has as many commands under way as it may     to the thread that ends one of these
============  ======================================================  =====================================

So a busy client costs five system calls for each command and no change of threads, thousands of silent
ones cost none, and SG_IO, or a descriptor that hangs when it is looked at or closed, holds up one thread.
There are as many threads as there are clients that talk: what a device that hangs can take is its own turns.

A client that breaks the protocol is disconnected and logged, and nobody else notices.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import structlog

from holdover.helper.connection import Connection, ConnectionEnded, Peer
from holdover.helper.listener import Listener
from holdover.helper.protocol import ProtocolError, Request
from holdover.paths.sgio import OpenDevice, block_signals
from holdover.paths.turns import Turns
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import OperationCode
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

__all__ = ["Handler", "HelperServer"]

log = structlog.get_logger()

_TURNS: Final = 32
"""Commands under way on one device."""

_THREADS: Final = 1 << 15
"""More than there are ever clients that talk at once: turns are what limits threads."""

_LINGER: Final = 10.0
"""Seconds for which a thread stays with a client after an answer: clusters look at their keys every few."""

_LINGERING: Final = 64
"""With more clients than these in the hands of threads, no thread stays with a silent one."""

_ACCEPTED_AT_ONCE: Final = 64
_ACCEPT_PAUSE: Final = 0.5
_ONCE: Final = select.EPOLLONESHOT
"""An event is told to the poller once, and nothing more until the connection is in its hands again."""

_READ_ONLY = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_COMMAND_OPERATION_CODE)
_UNUSABLE = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)
_FAILED = check_condition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)

Handler = Callable[[Peer, OpenDevice, Command], Response]
"""Carries out one PERSISTENT RESERVE command on a device, in a thread of its own; it may wait.

The device is the server's: it is closed when the handler has ended.
"""


@dataclass(frozen=True, slots=True)
class _Job:
    """A command that a client waits for."""

    connection: Connection
    device: OpenDevice
    command: Command


class HelperServer:
    """Serves every client of one listening socket."""

    def __init__(
        self,
        listener: Listener,
        handle: Handler,
        silence: float = 30.0,
        turns: int = _TURNS,
        linger: float = _LINGER,
        welcome: Callable[[Peer], None] | None = None,
    ) -> None:
        """``listener`` is the server's from now on.

        ``silence``: seconds after which a client that has begun something and does not go on is
        disconnected, or half as many again. It may be the client's own end of the connection that it has
        sent as a descriptor: that connection never ends by itself.
        ``turns``: commands under way on one device.
        ``linger``: seconds for which a thread stays with a client after an answer.
        ``welcome``: told of every client that connects, in a thread of the server's; it must not wait.
        """
        self._linger = linger
        self._listener = listener
        self._handle = handle
        self._silence = silence
        self._turns: Turns[_Job] = Turns(turns)
        self._threads = ThreadPoolExecutor(_THREADS, "helper", initializer=block_signals)
        self._poller = threading.Thread(target=self._poll, name="helper-poller", daemon=True)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        # All of them, and those in the poller's hands by their sockets' numbers. Each change is one
        # operation of a built-in type: whoever takes a connection out has it.
        self._connections: set[Connection] = set()
        self._parked: dict[int, Connection] = {}
        self._welcome = welcome
        self._closing = False
        self._empty = threading.Event()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Who is connected, once for each connection."""
        return tuple(connection.peer for connection in tuple(self._connections))

    @property
    def talking(self) -> int:
        """How many of them are in the hands of a thread or a turn."""
        return len(self._connections) - len(self._parked)

    def start(self) -> None:
        """Take connections, in threads of the server's."""
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self._listener.socket, select.EPOLLIN)
        self._poller.start()

    def close(self, limit: float = 5.0) -> None:
        """Take no more connections or commands; let the commands under way end, for ``limit`` seconds.

        What is under way longer goes on in its thread, and nobody hears of it.
        """
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._wake, 1)
        if self._poller.ident is not None:
            self._poller.join()
        self._listener.close()
        for connection in tuple(self._connections):
            # whoever waits for a client's next command sees the end; an answer still goes out
            connection.stop_reading()
        for number in tuple(self._parked):
            self._drop_parked(number)
        if self._connections:
            self._empty.wait(limit)
        for connection in tuple(self._connections):
            connection.hang_up()
        self._threads.shutdown(wait=False)
        self._epoll.close()
        os.close(self._wake)

    # The poller's thread: who is silent, and who comes.

    def _poll(self) -> None:
        block_signals()
        listening = self._listener.socket.fileno()
        sweep_at = time.monotonic() + self._silence / 2
        listen_at: float | None = None
        while not self._closing:
            until = sweep_at if listen_at is None else min(sweep_at, listen_at)
            for number, _ in self._epoll.poll(max(0.0, until - time.monotonic())):
                if number == listening:
                    listen_at = self._accept()
                elif number != self._wake:
                    self._unpark(number)
            now = time.monotonic()
            if listen_at is not None and now >= listen_at:
                self._epoll.register(listening, select.EPOLLIN)
                listen_at = None
            if now >= sweep_at:
                self._sweep(now)
                sweep_at = now + self._silence / 2

    def _accept(self) -> float | None:
        """Take connections; when the system has no room for them, the time from which to try again."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, _ = self._listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return None
            except OSError as error:
                # the listener stays readable: without a pause the poller would do nothing else
                log.error("no more connections for a moment", error=error.strerror)
                self._epoll.unregister(self._listener.socket)
                return time.monotonic() + _ACCEPT_PAUSE
            self._admit(client)
        return None

    def _admit(self, client: socket.socket) -> None:
        try:
            connection = Connection(client, self._linger)
            self._epoll.register(connection.number, _ONCE)
        except OSError as error:
            log.warning("client lost", error=error.strerror)
            client.close()
            return
        log.debug("client connected", pid=connection.peer.pid, uid=connection.peer.uid)
        self._connections.add(connection)
        connection.flush()
        if self._welcome is not None:
            self._welcome(connection.peer)
        self._park(connection)

    def _unpark(self, number: int) -> None:
        connection = self._parked.pop(number, None)
        if connection is None:
            return  # it was dropped between its event and now
        try:
            self._threads.submit(self._serve, connection)
        except RuntimeError as error:
            # the pool keeps what it could not start a thread for until one of its threads is free
            log.error("no more threads for a moment", error=str(error))

    def _sweep(self, now: float) -> None:
        """Disconnect those who have begun something and did not go on."""
        for number, connection in tuple(self._parked.items()):
            overdue = connection.deadline is not None and connection.deadline <= now
            if overdue and self._parked.pop(number, None) is connection:
                self._blame(connection, f"half of {connection.where} and then silence")

    # A thread of its own for each client that talks.

    def _serve(self, connection: Connection) -> None:
        """Carry out what a client asks for, until it falls silent."""
        following: Connection | None = connection
        while following is not None:
            connection = following
            try:
                following = self._advance(connection)
            except Exception:
                log.exception("a connection failed unexpectedly", pid=connection.peer.pid)
                self._drop(connection)
                return

    def _advance(self, connection: Connection) -> Connection | None:
        """One read, and what it leads to. Returns the connection to go on with; None: in other hands."""
        try:
            if not connection.sent:
                connection.flush()
            if not connection.sent:
                raise BlockingIOError
            request = connection.next_request(wait=self.talking <= _LINGERING)
        except BlockingIOError:
            self._park(connection)
            return None
        except ConnectionEnded as error:
            log.debug("client disconnected", pid=connection.peer.pid, how=str(error))
            self._drop(connection)
            return None
        except ProtocolError as error:
            self._blame(connection, error.problem)
            return None
        if request is not None:
            connection.deadline = None
            return self._take(connection, request)
        self._watch(connection)
        if connection.deadline is not None and connection.deadline < time.monotonic():
            self._blame(connection, f"{connection.where} in pieces, for {self._silence} s and longer")
            return None
        return connection

    def _take(self, connection: Connection, request: Request) -> Connection | None:
        try:
            device = OpenDevice(request.descriptor, os.fstat(request.descriptor))
        except OSError as error:
            log.warning("no device", pid=connection.peer.pid, error=error.strerror)
            _close(request.descriptor)
            connection.answer(_UNUSABLE)
            return connection
        job = _Job(connection, device, request.command)
        if not self._turns.begin(device.number, job):
            return None
        while not self._closing:
            self._carry_out(job)
            following = self._turns.end(job.device.number)
            if following is None:
                return job.connection
            # somebody has waited for this device longer than any client of ours
            self._park(job.connection)
            job = following
        self._forget(job)
        return None

    def _carry_out(self, job: _Job) -> None:
        try:
            job.connection.answer(self._response(job.connection.peer, job.device, job.command))
        finally:
            _close(job.device.descriptor)

    def _response(self, peer: Peer, device: OpenDevice, command: Command) -> Response:
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT and _read_only(device.descriptor):
            # whoever may only read must not shut others out
            return _READ_ONLY
        try:
            return self._handle(peer, device, command)
        except CancelledError:
            return _UNUSABLE
        except Exception:
            log.exception("a command failed unexpectedly", pid=peer.pid)
            return _FAILED

    def _forget(self, job: _Job | None) -> None:
        """Let go of a command that was not begun, and of all that wait behind it."""
        while job is not None:
            _close(job.device.descriptor)
            self._drop(job.connection)
            job = self._turns.end(job.device.number)

    # A connection changes hands, or ends.

    def _watch(self, connection: Connection) -> None:
        """Have the client go on where it has begun something."""
        if connection.idle:
            connection.deadline = None
        elif connection.deadline is None:
            connection.deadline = time.monotonic() + self._silence

    def _park(self, connection: Connection) -> None:
        """Give a connection to the poller."""
        self._watch(connection)
        self._parked[connection.number] = connection
        if self._closing:
            self._drop_parked(connection.number)
        else:
            self._epoll.modify(
                connection.number, _ONCE | (select.EPOLLIN if connection.sent else select.EPOLLOUT)
            )

    def _drop_parked(self, number: int) -> None:
        connection = self._parked.pop(number, None)
        if connection is not None:
            self._drop(connection)

    def _blame(self, connection: Connection, problem: str) -> None:
        if not self._closing:
            peer = connection.peer
            log.warning("client broke the protocol", pid=peer.pid, uid=peer.uid, problem=problem)
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.discard(connection)
        connection.close()
        if self._closing and not self._connections:
            self._empty.set()


def _read_only(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def _close(descriptor: int) -> None:
    # whatever its file system has to say of it, the descriptor is closed
    with contextlib.suppress(OSError):
        os.close(descriptor)
