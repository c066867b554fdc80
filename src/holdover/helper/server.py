"""The helper's server: threads around `protocol`, for a handler that carries the commands out.

Theory of operation. At any time, one of four owners has a connection:

============  ======================================================  =====================================
owner         when                                                    next owner
============  ======================================================  =====================================
the poller    the client is silent, or does not read                  a thread, when its socket is ready
a thread      the client sends: one thread reads, carries the         the poller, when nothing comes for
              command out and answers, without any other thread       some seconds; or a turn
a turn        its device has the greatest number of commands under    the thread that ends one of these
              way
a future      the handler has returned one: the command waits for     a thread, when the future is done
              something other than the device, such as a gate
============  ======================================================  =====================================

So each command of a busy client costs five system calls and no change of threads. Thousands of silent clients
cost none. SG_IO blocks one thread at most, and so does a descriptor that hangs when it is examined or closed.
There are as many threads as there are clients that send. A device that hangs can use up its own turns only.
A command that waits in a future has neither a thread nor a turn, so it delays nobody who wants the same
device.

A client that breaks the protocol is disconnected and logged. Other clients are not affected. `clients` says
how many connections a client may have, and how often it may connect.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from holdover.admission.admission import AdmittedConnection
from holdover.admission.seldom import Seldom
from holdover.helper.clients import Clients
from holdover.helper.connection import Connection, ConnectionEnded, Peer, close_descriptor, credentials_of
from holdover.helper.listener import Listener
from holdover.helper.pending_command import PendingCommand
from holdover.helper.protocol import HelperProtocolError, HelperRequest
from holdover.metrics.durations import Durations
from holdover.paths.device_queue import Turns
from holdover.paths.sgio import OpenDevice, block_signals
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

log = structlog.get_logger()

T = TypeVar("T")

_TURNS: Final = 32
"""The greatest number of commands under way on one device."""

_SHARE: Final = 16
"""How many of these commands may be of one client process."""

_THREADS: Final = 1 << 15
"""More than the number of clients that ever send at once: the turns limit the threads, not this."""

_LINGER: Final = 10.0
"""Seconds for which a thread stays with a client after an answer: cluster software reads the keys often."""

_LINGERING: Final = 64
"""While threads have more clients than this, no thread stays with a silent client."""

_ACCEPTED_AT_ONCE: Final = 32
_ACCEPT_PAUSE: Final = 0.5
_REFUSED_PAUSE: Final = 0.02
"""Seconds for which nobody is accepted after a client was turned away: turning away takes time too."""

_TELL_SECONDS: Final = 10.0
_ONCE: Final = select.EPOLLONESHOT
"""The poller gets one event, and no more until it has the connection again."""

_READ_ONLY = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_COMMAND_OPERATION_CODE)
_UNUSABLE = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)
_FAILED = check_condition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)

Handler = Callable[[Peer, OpenDevice, Command], Response | Future[Response]]
"""Carries out one PERSISTENT RESERVE command on a device.

The server calls it in a thread, where it may wait for the device. If the command has to wait for anything
else, the handler returns a future. The thread and the device's turn are then free in the meantime.

The server owns the device: it closes the device when there is an answer.
"""


class HelperServer:
    """A server for all clients of one listening socket."""

    def __init__(
        self,
        listener: Listener,
        handle: Handler,
        clients: Clients,
        silence: float = 30.0,
        turns: int = _TURNS,
        linger: float = _LINGER,
        share: int = _SHARE,
        welcome: Callable[[Peer], None] | None = None,
        durations: Durations | None = None,
    ) -> None:
        """``listener`` belongs to the server from now on.

        ``clients``: the places of all helper sockets of this process.
        ``silence``: a client that has begun something and does not continue is disconnected after this many
        seconds, or half as many again. Without this limit such a connection might never end: the client may
        have sent its own end of the connection as a descriptor.
        ``turns``: the greatest number of commands under way on one device.
        ``linger``: the seconds for which a thread stays with a client after an answer.
        ``share``: how many of the commands under way on one device may be of one client.
        ``welcome``: called with each client that connects, in a thread of the server; it must not wait.
        ``durations``: counts how long commands take, from their arrival to their answer.
        """
        self._linger = linger
        self._listener = listener
        self._handle = handle
        self._clients = clients
        self._seldom = Seldom(_TELL_SECONDS)
        self._silence = silence
        self._turns: Turns[PendingCommand] = Turns(turns, share)
        self._threads = ThreadPoolExecutor(_THREADS, "helper", initializer=block_signals)
        self._poller = threading.Thread(target=self._poll, name="helper-poller", daemon=True)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        # All connections; and those of the poller, by the numbers of their sockets. Each change is one
        # operation of a built-in type. So whoever takes a connection out of ``_parked`` owns it.
        self._connections: set[Connection] = set()
        self._parked: dict[int, Connection] = {}
        self._awaited: set[PendingCommand] = set()
        """Commands whose answer comes by a future."""
        self._welcome = welcome
        self._durations = durations
        self._closing = False
        self._empty = threading.Event()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The connected processes, each once for each of its connections."""
        return tuple(connection.peer for connection in tuple(self._connections))

    @property
    def talking(self) -> int:
        """How many of the connections a thread or a turn owns."""
        return len(self._connections) - len(self._parked) - len(self._awaited)

    def start(self) -> None:
        """Accept connections, in threads of the server."""
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self._listener.socket, select.EPOLLIN)
        self._poller.start()

    def close(self, limit: float = 5.0) -> None:
        """Accept no more connections or commands, and let the commands under way end within ``limit``
        seconds.

        A command that takes longer goes on in its thread, and its answer is dropped.
        """
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._wake, 1)
        if self._poller.ident is not None:
            self._poller.join()
        self._listener.close()
        for connection in tuple(self._connections):
            # a thread that waits for a client's next command sees the end; an answer is still sent
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

    # The poller's thread: silent clients, and new clients.

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
        """Accept connections. Returns when to try again if there is no room for more; else None."""
        pause = 0.0
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, _ = self._listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                log.error("The helper can accept no more connections for a moment.", reason=error.strerror)
                pause = _ACCEPT_PAUSE
                break
            if not self._admit(client):
                pause = _REFUSED_PAUSE
        if not pause:
            return None
        # the listener stays readable: without a pause, the poller would do nothing but this
        self._epoll.unregister(self._listener.socket)
        return time.monotonic() + pause

    def _admit(self, client: socket.socket) -> bool:
        """Take a connection. Returns False if it was turned away."""
        try:
            pid, uid, _ = credentials_of(client)
        except OSError as error:
            log.warning("A client of the helper was lost while it connected.", reason=error.strerror)
            client.close()
            return True
        place, victim = self._clients.enter(pid, uid)
        if victim is not None:
            self._put_out(victim)
        if place is None or victim is not None:
            self._tell(pid, uid)
        if place is None:
            client.close()
            return False
        try:
            connection = Connection(client, self._linger, place)
            self._epoll.register(connection.number, _ONCE)
        except OSError as error:
            log.warning("A client of the helper was lost while it connected.", reason=error.strerror)
            client.close()
            place.leave()
            return True
        log.debug("A client has connected to the helper.", pid=pid, uid=uid)
        self._clients.strangers[place.entry] = connection.hang_up
        if not place.entry.is_here:
            self._put_out(place.entry)  # at another socket, a client has taken this place already
        self._connections.add(connection)
        connection.flush()
        if self._welcome is not None:
            self._welcome(connection.peer)
        self._park(connection)
        return True

    def _put_out(self, entry: AdmittedConnection) -> None:
        """Disconnect a client that has not exchanged the features: another one needs its place."""
        hang_up = self._clients.strangers.pop(entry, None)
        if hang_up is not None:
            # its owner, the poller or a thread, maybe of another server, sees the end
            hang_up()

    def _tell(self, pid: int, uid: int) -> None:
        count = self._seldom.due(time.monotonic())
        if count:
            log.warning("Clients of the helper were turned away.", count=count, pid=pid, uid=uid)

    def _unpark(self, number: int) -> None:
        connection = self._parked.pop(number, None)
        if connection is None:
            return  # it was dropped after its event
        try:
            self._threads.submit(self._serve, connection)
        except RuntimeError as error:
            # the pool keeps work for which it cannot start a thread, until one of its threads is free
            log.error("The system has no more threads for a moment.", reason=str(error))

    def _sweep(self, now: float) -> None:
        """Disconnect the clients that have begun something and did not continue."""
        for number, connection in tuple(self._parked.items()):
            overdue = connection.deadline is not None and connection.deadline <= now
            if overdue and self._parked.pop(number, None) is connection:
                self._blame(connection, f"half of {connection.where} and then silence")

    # One thread for each client that sends.

    def _serve(self, connection: Connection) -> None:
        """Carry out what a client asks for, until the client is silent."""
        following: Connection | None = connection
        while following is not None:
            connection = following
            try:
                following = self._advance(connection)
            except Exception:
                log.exception("A connection of the helper failed unexpectedly.", pid=connection.peer.pid)
                self._drop(connection)
                return

    def _advance(self, connection: Connection) -> Connection | None:
        """Read once and handle what came.

        Returns the connection with which to continue; None if it has another owner now.
        """
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
            log.debug("A client of the helper has disconnected.", pid=connection.peer.pid, reason=str(error))
            self._drop(connection)
            return None
        except HelperProtocolError as error:
            self._blame(connection, error.problem)
            return None
        if connection.greeted and not self._know(connection):
            if request is not None:
                close_descriptor(request.descriptor)
            self._drop(connection)
            return None
        if request is not None:
            connection.deadline = None
            return self._take(connection, request)
        self._watch(connection)
        if connection.deadline is not None and connection.deadline < time.monotonic():
            self._blame(connection, f"{connection.where} in pieces, for {self._silence} s and longer")
            return None
        return connection

    def _know(self, connection: Connection) -> bool:
        """Whether a client that has exchanged the features may stay."""
        place = connection.place
        if place.is_known:
            return True
        self._clients.strangers.pop(place.entry, None)
        if place.know():
            return True
        self._tell(place.pid, place.uid)
        return False

    def _take(self, connection: Connection, request: HelperRequest) -> Connection | None:
        try:
            device = OpenDevice(request.descriptor, os.fstat(request.descriptor))
            if fcntl.fcntl(request.descriptor, fcntl.F_GETFL) & os.O_PATH:
                # its owner may neither read nor write: everybody can get such a descriptor of any file
                raise OSError(errno.EBADF, "a descriptor that is open for nothing (O_PATH)")
        except OSError as error:
            log.warning(
                "A client of the helper sent a descriptor that is no usable device.",
                pid=connection.peer.pid,
                reason=error.strerror,
            )
            close_descriptor(request.descriptor)
            connection.answer(_UNUSABLE)
            return connection
        job = PendingCommand(connection, device, request.command, time.perf_counter())
        if not self._turns.begin(device.number, job.client, job):
            return None
        while not self._closing:
            answered = self._carry_out(job)
            following = self._turns.end(job.device.number, job.client)
            if following is None:
                return job.connection if answered else None
            # a command for this device has waited longer than the next one of our client
            if answered:
                self._park(job.connection)
            job = following
        self._forget(job)
        return None

    def _carry_out(self, job: PendingCommand) -> bool:
        """Carry out a command that has its turn. Returns whether it is answered, and not by a future."""
        response = self._response(job)
        if isinstance(response, Future):
            self._awaited.add(job)
            response.add_done_callback(lambda future: self._resume(job, future))
            return False
        self._answer(job, response)
        return True

    def _answer(self, job: PendingCommand, response: Response) -> None:
        try:
            job.connection.answer(response)
        finally:
            close_descriptor(job.device.descriptor)
            if self._durations is not None:
                self._durations.observe(time.perf_counter() - job.began)

    def _resume(self, job: PendingCommand, future: Future[Response]) -> None:
        """Give a command whose future is done to a thread. Runs in the thread that completed the future."""
        try:
            self._threads.submit(self._finish, job, future)
        except RuntimeError as error:
            if not self._closing:
                # the pool keeps work for which it cannot start a thread, until one of its threads is free
                log.error("The system has no more threads for a moment.", reason=str(error))
                return
            # The pool takes no more work. Closing a descriptor may wait, and the caller must not wait.
            threading.Thread(target=self._finish, args=(job, future), daemon=True).start()

    def _finish(self, job: PendingCommand, future: Future[Response]) -> None:
        try:
            self._awaited.remove(job)
        except KeyError:
            return  # another thread has this command
        try:
            self._answer(job, self._result(job, future.result))
        except Exception:
            log.exception("A connection of the helper failed unexpectedly.", pid=job.connection.peer.pid)
            self._drop(job.connection)
            return
        self._serve(job.connection)

    def _response(self, job: PendingCommand) -> Response | Future[Response]:
        peer, device, command = job.connection.peer, job.device, job.command
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT and device.access == os.O_RDONLY:
            # a client that may only read must not lock others out
            return _READ_ONLY
        return self._result(job, lambda: self._handle(peer, device, command))

    def _result(self, job: PendingCommand, get: Callable[[], T]) -> T | Response:
        try:
            return get()
        except CancelledError:
            return _UNUSABLE
        except Exception:
            log.exception("A command through the helper failed unexpectedly.", pid=job.connection.peer.pid)
            return _FAILED

    def _forget(self, job: PendingCommand | None) -> None:
        """Drop a command that was not begun, and all commands that wait behind it."""
        while job is not None:
            close_descriptor(job.device.descriptor)
            self._drop(job.connection)
            job = self._turns.end(job.device.number, job.client)

    # A connection gets another owner, or ends.

    def _watch(self, connection: Connection) -> None:
        """Set the time by which the client must continue, if it has begun something."""
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
        peer = connection.peer
        if not self._closing and connection.place.entry.is_here and self._clients.may_log(peer.uid):
            log.warning(
                "A client of the helper broke the protocol.", pid=peer.pid, uid=peer.uid, reason=problem
            )
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._clients.strangers.pop(connection.place.entry, None)
        connection.close()
        if self._closing and not self._connections:
            self._empty.set()
