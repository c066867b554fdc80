"""One connection of the asyncio target: moves bytes, runs commands, decides nothing about iSCSI.

A command runs as a task of its own unless its device can answer at once (`ImmediateDeviceServer`).
A session is over only when its last command has stopped: until then `TargetConnection.ended` is not
set and the initiator's next login waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from holdover.iscsi.header import Buffer
from holdover.iscsi.keep_alive import KeepAlive
from holdover.iscsi.logical_units import answer_for_missing, report_luns
from holdover.iscsi.numbers import LoginStatus, TaskManagementFunction, TaskManagementResponse
from holdover.iscsi.portals import SocketAddress, format_address
from holdover.iscsi.target_events import (
    Closed,
    CommandReceived,
    LoginCompleted,
    TargetEvent,
    TaskManagementReceived,
)
from holdover.iscsi.target_session import TargetSession
from holdover.scsi.command import Command, DeviceServer, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import OperationCode
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

__all__ = ["ConnectionOwner", "ImmediateDeviceServer", "NexusAware", "TargetConnection"]

_log = logging.getLogger(__name__)

_CLOSE_GRACE = 5.0
_FLUSH_AT = 1 << 20
_WRITE_HIGH = 2 << 20


class ImmediateDeviceServer(DeviceServer, Protocol):
    """A device server that can answer most commands without waiting for anything."""

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        """As `execute`, or None for a command that has to wait and for which nothing was done yet."""
        ...


class NexusAware(DeviceServer, Protocol):
    """A device server that keeps something for each I_T nexus that ends with it."""

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """I_T nexus loss (SAM-5 6.3.4)."""
        ...


class ConnectionOwner(Protocol):
    """What a connection needs of the target that it belongs to."""

    @property
    def luns(self) -> Mapping[int, DeviceServer]:
        """The logical units by their numbers."""
        ...

    def new_session(self, local: SocketAddress) -> TargetSession:
        """The session for a new connection, with its address at this end."""
        ...

    def connection_opened(self, connection: TargetConnection) -> bool:
        """Note a connection; False where there are too many."""
        ...

    async def login_completed(self, connection: TargetConnection, login: LoginCompleted) -> None:
        """Admit or refuse an initiator."""
        ...

    def connection_ended(self, connection: TargetConnection, reason: str) -> None:
        """Forget a connection, all of whose commands have stopped."""
        ...

    def others(self, connection: TargetConnection) -> Iterable[TargetConnection]:
        """The connections of all other sessions."""
        ...


class TargetConnection(asyncio.BufferedProtocol):
    """One connection and its session.

    Attributes:
        session: The session's state.
        login: Who logged in, None before.
        nexus: The I_T nexus, None before and for a discovery session.
        tsih: Number of the session, 0 before.
        peer, portal: Addresses of both ends, "host:port".
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        buffer: memoryview,
        login_timeout: float,
        ping: tuple[float, float] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.session: TargetSession
        self.login: LoginCompleted | None = None
        self.nexus: ITNexus | None = None
        self.tsih = 0
        self.peer = self.portal = ""
        self._owner = owner
        # Shared by all connections of the loop: what stands in it is taken out before it is
        # given to the next.
        self._buffer = buffer
        self._loop = loop
        self._login_timeout = login_timeout
        self._login_timer: asyncio.TimerHandle | None = None
        self._keep_alive: KeepAlive | None = None
        if ping is not None:
            self._keep_alive = KeepAlive(*ping, self._ask, self._give_up)
        self._transport: asyncio.Transport
        self._running: dict[int, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._waiting: deque[CommandReceived] = deque()
        self._paused = False
        self._flush_due = False
        self._closing = ""
        self._ended: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[None] = loop.create_future()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        self.peer = format_address(transport.get_extra_info("peername"))
        local = transport.get_extra_info("sockname")
        self.portal = format_address(local)
        transport.set_write_buffer_limits(high=_WRITE_HIGH)
        self.session = self._owner.new_session(local)
        if not self._owner.connection_opened(self):
            transport.abort()
            return
        self._login_timer = self._loop.call_later(self._login_timeout, self._login_timed_out)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio names it
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return
        if self._keep_alive is not None:
            self._keep_alive.heard()
        self.session.receive_data(self._buffer[:nbytes])
        for event in self.session.events_received():
            self._handle(event)
        self._flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._keep_alive is not None:
            # Who takes what was sent is alive, though nothing was read of him meanwhile.
            self._keep_alive.heard()
        while self._waiting and not self._paused:
            self._start(self._waiting.popleft())
        self._flush()
        if not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._paused = False
        self._end(f"connection lost: {exc}" if exc else "the initiator closed the connection")

    # The target's side

    def admit(self, nexus: ITNexus | None, login: LoginCompleted, tsih: int) -> None:
        """Begin full feature phase."""
        self.nexus, self.login, self.tsih = nexus, login, tsih
        self._stop_login_timer()
        self.session.admit(tsih)
        self._flush()
        if self._keep_alive is not None and nexus is not None:
            self._keep_alive.start()

    def refuse(self, status: LoginStatus, problem: str) -> None:
        """Send the initiator away and close."""
        self.session.refuse(status, problem)
        self._end(problem)

    async def shut(self, reason: str, *, flush: bool = False) -> None:
        """Close the connection; return when its last command has stopped.

        Args:
            flush: Whether what is not sent yet may still be sent.
        """
        ended = self._end(reason, abort=not flush)
        await asyncio.shield(ended)

    async def ask_to_leave(self, seconds: int) -> None:
        """Ask the initiator to log out; return when it has, or when the time for it is over."""
        if self._ended is None and self.nexus is not None:
            self.session.request_logout(seconds)
            self._flush()
            await asyncio.wait([self._gone], timeout=seconds)

    async def terminate(self, lun: int | None) -> None:
        """End commands because of what another session did; return when they have stopped."""
        tags = self.session.terminate_tasks(lun)
        self._flush()
        await self._stop(tags)

    # Events

    def _handle(self, event: TargetEvent) -> None:
        if isinstance(event, CommandReceived):
            self._start(event)
        elif isinstance(event, TaskManagementReceived | LoginCompleted):
            self._spawn(event)
        elif isinstance(event, Closed):
            self._end(event.reason)

    def _spawn(self, event: LoginCompleted | TaskManagementReceived) -> None:
        if isinstance(event, LoginCompleted):
            task = self._loop.create_task(self._owner.login_completed(self, event))
        else:
            task = self._loop.create_task(self._manage(event))
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    def _start(self, event: CommandReceived) -> None:
        """Run a command, unless the initiator is not taking the answers to those before it."""
        if self._paused:
            self._waiting.append(event)
            return
        command, luns = event.command, self._owner.luns
        device = None if event.lun is None else luns.get(event.lun)
        response: Response | None = None
        if command.opcode == OperationCode.REPORT_LUNS and (device is not None or event.lun == 0):
            response = report_luns(command, luns)
        elif device is None or self.nexus is None:
            response = answer_for_missing(command)
        elif hasattr(device, "execute_now"):
            try:
                response = cast(ImmediateDeviceServer, device).execute_now(self.nexus, command)
            except Exception:
                response = _failed(event)
        if response is not None:
            self.session.respond(event.tag, response)
            if self.session.unsent > _FLUSH_AT:
                self._flush()
        elif device is not None and self.nexus is not None:
            task = self._loop.create_task(self._execute(device, self.nexus, event))
            self._running[event.tag] = task

    async def _execute(self, device: DeviceServer, nexus: ITNexus, event: CommandReceived) -> None:
        try:
            response = await device.execute(nexus, event.command)
        except Exception:
            response = _failed(event)
        finally:
            if self._running.get(event.tag) is asyncio.current_task():
                del self._running[event.tag]
        self.session.respond(event.tag, response)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    async def _manage(self, event: TaskManagementReceived) -> None:
        """Carry out a task management function (RFC 7143 11.5, SAM-5 7)."""
        await self._stop(event.tasks)
        response = await self._perform(event)
        self.session.answer_task_management(event.tag, response)
        self._flush()
        if event.function == TaskManagementFunction.TARGET_COLD_RESET:
            # Every session ends (RFC 7143 11.5.1).
            for connection in [*self._owner.others(self), self]:
                connection._end("target cold reset")

    async def _perform(self, event: TaskManagementReceived) -> TaskManagementResponse:
        function, luns = event.function, self._owner.luns
        done = TaskManagementResponse.FUNCTION_COMPLETE
        if function == TaskManagementFunction.ABORT_TASK:
            return done if event.found else TaskManagementResponse.TASK_DOES_NOT_EXIST
        if function in (TaskManagementFunction.TARGET_WARM_RESET, TaskManagementFunction.TARGET_COLD_RESET):
            await self._terminate_others(None)
            for device in list(luns.values()):
                await device.reset()
            return done
        if function == TaskManagementFunction.TASK_REASSIGN:
            return TaskManagementResponse.REASSIGNMENT_NOT_SUPPORTED
        if function == TaskManagementFunction.CLEAR_ACA:
            return TaskManagementResponse.FUNCTION_NOT_SUPPORTED
        if function not in (
            TaskManagementFunction.ABORT_TASK_SET,
            TaskManagementFunction.CLEAR_TASK_SET,
            TaskManagementFunction.LOGICAL_UNIT_RESET,
        ):
            return TaskManagementResponse.FUNCTION_REJECTED
        found = None if event.lun is None else luns.get(event.lun)
        if found is None:
            return TaskManagementResponse.LUN_DOES_NOT_EXIST
        if function != TaskManagementFunction.ABORT_TASK_SET:
            await self._terminate_others(event.lun)
        if function == TaskManagementFunction.LOGICAL_UNIT_RESET:
            await found.reset()
        return done

    async def _terminate_others(self, lun: int | None) -> None:
        for connection in list(self._owner.others(self)):
            await connection.terminate(lun)

    async def _stop(self, tags: Iterable[int]) -> None:
        """Cancel commands and wait until they have stopped."""
        tags = set(tags)
        self._waiting = deque(event for event in self._waiting if event.tag not in tags)
        tasks = [task for tag, task in self._running.items() if tag in tags]
        await _cancel(tasks)

    # The end

    def _login_timed_out(self) -> None:
        self._end("no login within the time for it", abort=True)

    def _ask(self) -> None:
        self.session.ping()
        self._flush()

    def _give_up(self) -> None:
        self._end("the initiator does not answer", abort=True)

    def _stop_login_timer(self) -> None:
        if self._login_timer is not None:
            self._login_timer.cancel()
            self._login_timer = None

    def _end(self, reason: str, *, abort: bool = False) -> asyncio.Task[None]:
        """Close the connection and stop all commands; the same task however often it is called."""
        if self._ended is None:
            self._closing = reason
            self._stop_login_timer()
            if self._keep_alive is not None:
                self._keep_alive.stop()
            self._waiting.clear()
            if not abort:
                self._flush()
            self._ended = self._loop.create_task(self._finish())
        if abort:
            self._transport.abort()
        elif not self._transport.is_closing():
            self._transport.close()
            self._loop.call_later(_CLOSE_GRACE, self._transport.abort)
        return self._ended

    async def _finish(self) -> None:
        await _cancel([*self._running.values(), *self._others])
        if self.nexus is not None:
            for number, device in list(self._owner.luns.items()):
                await _lose_nexus(number, device, self.nexus)
        self._owner.connection_ended(self, self._closing)
        self._gone.set_result(None)

    def _flush(self) -> None:
        self._flush_due = False
        buffers: list[Buffer] = self.session.data_to_send()
        if buffers and not self._transport.is_closing():
            self._transport.writelines(buffers)


async def _lose_nexus(lun: int, device: DeviceServer, nexus: ITNexus) -> None:
    if hasattr(device, "nexus_lost"):
        try:
            await cast(NexusAware, device).nexus_lost(nexus)
        except Exception:
            # The session ends all the same, or the initiator could never log in again.
            _log.exception("LUN %s: the end of the I_T nexus %s failed inside the target", lun, nexus)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    current = asyncio.current_task()
    stopping = [task for task in tasks if task is not current]
    for task in stopping:
        task.cancel()
    if stopping:
        await asyncio.wait(stopping)


def _failed(event: CommandReceived) -> Response:
    _log.exception("LUN %s: command %s failed inside the target", event.lun, event.command.cdb.hex(" "))
    return check_condition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)
