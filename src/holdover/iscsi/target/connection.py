"""One connection of the asyncio target. It moves bytes and runs commands; `TargetSession` decides everything
about iSCSI.

`RunningCommands` carries the commands out.
A session is over only when its last command has stopped. Until then `TargetConnection.ended` is not set, and
the initiator's next login waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Protocol, cast

from holdover.iscsi.header import Buffer
from holdover.iscsi.keep_alive import KeepAlive
from holdover.iscsi.names import decode_lun
from holdover.iscsi.numbers import LoginStatus, TaskManagementFunction, TaskManagementResponse
from holdover.iscsi.relayed import FarEnd
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.events import (
    Closed,
    CommandReceived,
    LoginCompleted,
    TargetEvent,
    TaskManagementReceived,
)
from holdover.iscsi.target.portals import SocketAddress, format_address
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.iscsi.target.relay import CommandRelay
from holdover.iscsi.target.running import RunningCommands
from holdover.iscsi.target.stall import StallWatch
from holdover.network.pending_flushes import pending_flushes
from holdover.scsi.command import DeviceServer, Forwarded, NexusAware, Response
from holdover.scsi.nexus import ITNexus

_log = logging.getLogger(__name__)

_CLOSE_GRACE = 5.0
_FLUSH_AT = 1 << 20
_WRITE_HIGH = 2 << 20

_WATCH_SECONDS = 1.0
"""The seconds from one check of a connection's transfers to the next."""

_STALL_SECONDS = 30.0
"""The most seconds in which an initiator neither sends requested data nor takes data that it asked for."""


class ConnectionOwner(Protocol):
    """The methods that a connection needs from its target."""

    @property
    def luns(self) -> Mapping[int, DeviceServer]:
        """The logical units by their numbers."""
        ...

    @property
    def budget(self) -> ByteBudget:
        """The data of all commands of all sessions."""
        ...

    def new_session(self, local: SocketAddress) -> TargetSession:
        """The session for a new connection, with its address at this end."""
        ...

    def connection_opened(self, connection: TargetConnection) -> bool:
        """Note a connection; returns False when the target does not admit it."""
        ...

    async def login_completed(self, connection: TargetConnection, login: LoginCompleted) -> None:
        """Admit or refuse an initiator."""
        ...

    def connection_ended(self, connection: TargetConnection, reason: str) -> None:
        """Forget a connection after all its commands have stopped."""
        ...

    def others(self, connection: TargetConnection) -> Iterable[TargetConnection]:
        """The connections of all other sessions."""
        ...


class TargetConnection(asyncio.BufferedProtocol):
    """One connection and its session.

    Attributes:
        session: The session's state.
        login: The completed login; None before.
        nexus: The I_T nexus; None before the login and for a discovery session.
        tsih: The number of the session; 0 before the login.
        party: Whose connection it is, as far as that is known before the login.
        peer, portal: The addresses of both ends, "host:port".
        address: The host of `peer`.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        party: str,
        buffer: memoryview,
        login_timeout: float,
        ping: tuple[float, float] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.session: TargetSession
        self.login: LoginCompleted | None = None
        self.nexus: ITNexus | None = None
        self.tsih = 0
        self.party = party
        self.peer = self.portal = self.address = ""
        self._owner = owner
        # All connections of the loop share the buffer: its bytes are taken out before the next
        # connection gets it.
        self._buffer = buffer
        self._loop = loop
        self._login_timeout = login_timeout
        self._login_timer: asyncio.TimerHandle | None = None
        self._keep_alive: KeepAlive | None = None
        if ping is not None:
            self._keep_alive = KeepAlive(*ping, self._ask, self._no_answer)
        self._transport: asyncio.Transport
        self._commands = RunningCommands(loop, self._command_ended)
        self._others: set[asyncio.Task[None]] = set()
        self._waiting: deque[CommandReceived] = deque()
        self._budget = owner.budget
        self._unsent = 0
        self._written = 0
        self._watch: asyncio.TimerHandle | None = None
        self._stalls = StallWatch(_STALL_SECONDS)
        self._paused = False
        self._flushes = pending_flushes(loop)
        self._flush_due = False
        self._closing = ""
        self._ended: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[None] = loop.create_future()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        remote = transport.get_extra_info("peername")
        self.peer, self.address = format_address(remote), remote[0]
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
            self._keep_alive.received()
        self._flushes.receiving()
        try:
            self.session.receive_data(self._buffer[:nbytes])
            for event in self.session.events_received():
                self._handle(event)
        finally:
            self._flushes.received(self._flush)
        self._watch_data_out()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._keep_alive is not None:
            # An initiator that takes the sent bytes is alive, even if it sent nothing meanwhile.
            self._keep_alive.received()
        self._start_waiting()
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
        if nexus is not None and any(hasattr(each, "far_end") for each in self._owner.luns.values()):
            self.session.relay = CommandRelay(self, self.session, self._budget).take
        self._flush()
        if self._keep_alive is not None and nexus is not None:
            self._keep_alive.start()

    def refuse(self, status: LoginStatus, problem: str) -> None:
        """Refuse the initiator, and close the connection."""
        self.session.refuse(status, problem)
        self._end(problem)

    def give_up(self, reason: str) -> None:
        """Close the connection at once, without waiting."""
        self._end(reason, abort=True)

    async def shut(self, reason: str, *, flush: bool = False) -> None:
        """Close the connection; return when its last command has stopped.

        Args:
            flush: Whether to send the remaining bytes first.
        """
        ended = self._end(reason, abort=not flush)
        await asyncio.shield(ended)

    async def ask_to_leave(self, seconds: int) -> None:
        """Ask the initiator to log out; returns when it has, or when the time for it is over."""
        if self._ended is None and self.nexus is not None:
            self.session.request_logout(seconds)
            self._flush()
            await asyncio.wait([self._gone], timeout=seconds)

    async def terminate(self, lun: int | None) -> None:
        """End commands because of another session's function; returns when they have stopped."""
        tags = self.session.terminate_tasks(lun)
        self._flush()
        await self._stop(tags)

    # Relayed commands

    @property
    def takes_commands(self) -> bool:
        """Whether a command that comes now may begin, and does not wait behind others."""
        return not (self._waiting or self._paused)

    def far_end(self, lun: int) -> FarEnd | None:
        """Where plain commands for a LUN field go at this moment; None: they are ordinary ones."""
        number = decode_lun(lun)
        device = None if number is None else self._owner.luns.get(number)
        far_end: Callable[[ITNexus | None], FarEnd | None] | None = getattr(device, "far_end", None)
        return None if far_end is None else far_end(self.nexus)

    def relayed_ended(self, read_length: int) -> None:
        """Note that the session has the answer of a relayed command to send."""
        self._unsent += read_length
        self._flush_soon()

    def adopt(
        self, event: CommandReceived, forward: Callable[[Callable[[Response], None]], Forwarded]
    ) -> None:
        """Have a command, which is under way, carried out as an ordinary one from now on."""
        self._commands.adopt(event, forward)

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._flushes.add(self._flush)

    # Events

    def _handle(self, event: TargetEvent) -> None:
        if isinstance(event, CommandReceived):
            if self._waiting or not self._admit(event):
                self._waiting.append(event)
                self._budget.wait(self._room)
            else:
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

    def _admit(self, event: CommandReceived) -> bool:
        """Whether a command may begin: the initiator takes the answers to the commands before it, and the
        budget has room for the data that the command will read. From then on the budget counts that data.
        """
        return not self._paused and self._budget.take(event.command.data_in_length)

    def _start_waiting(self) -> None:
        while self._waiting and self._admit(self._waiting[0]):
            self._start(self._waiting.popleft())
        if self._waiting:
            self._budget.wait(self._room)

    def _room(self) -> None:
        """Continue, because there is more room in the budget."""
        self._loop.call_soon(self._use_room)

    def _use_room(self) -> None:
        if self._closing:
            return
        self.session.serve_waiting()
        self._start_waiting()
        self._flush()
        self._watch_data_out()

    def _start(self, event: CommandReceived) -> None:
        response = self._commands.start(self._owner.luns, self.nexus, event)
        if response is not None:
            self._unsent += event.command.data_in_length
            self.session.respond(event.tag, response)
            if self.session.unsent > _FLUSH_AT:
                self._flush()

    def _command_ended(self, event: CommandReceived, response: Response | None) -> None:
        """Answer a command. The data that it has read count until the next flush, also if it was stopped."""
        self._unsent += event.command.data_in_length
        if response is not None:
            self.session.respond(event.tag, response)
        self._flush_soon()

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
            return done if await _reset(luns.values()) else TaskManagementResponse.FUNCTION_REJECTED
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
            return done if await _reset([found]) else TaskManagementResponse.FUNCTION_REJECTED
        return done

    async def _terminate_others(self, lun: int | None) -> None:
        for connection in list(self._owner.others(self)):
            await connection.terminate(lun)

    async def _stop(self, tags: Iterable[int]) -> None:
        """Cancel commands and wait until they have stopped."""
        tags = set(tags)
        self._waiting = deque(event for event in self._waiting if event.tag not in tags)
        await self._commands.stop(tags)

    # The end

    def _login_timed_out(self) -> None:
        self.give_up("no login within the time for it")

    def _ask(self) -> None:
        self.session.ping()
        self._flush()

    def _no_answer(self) -> None:
        self.give_up("the initiator does not answer")

    def _stop_login_timer(self) -> None:
        if self._login_timer is not None:
            self._login_timer.cancel()
            self._login_timer = None

    def _end(self, reason: str, *, abort: bool = False) -> asyncio.Task[None]:
        """Close the connection and stop all commands; every call returns the same task."""
        if self._ended is None:
            self._closing = reason
            self._stop_login_timer()
            if self._keep_alive is not None:
                self._keep_alive.stop()
            self._waiting.clear()
            self.session.relayed.make_all_ordinary()
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
        await _cancel(self._others)
        await self._commands.stop_all()
        self._give_up_room()
        if self.nexus is not None:
            for number, device in list(self._owner.luns.items()):
                await _lose_nexus(number, device, self.nexus)
        self._owner.connection_ended(self, self._closing)
        self._gone.set_result(None)

    def _flush(self) -> None:
        self._flush_due = False
        self._written += self.session.unsent
        buffers: list[Buffer] = self.session.data_to_send()
        if buffers and not self._transport.is_closing():
            self._transport.writelines(buffers)
        if self._unsent:
            self._settle()

    # What the connection holds of the budget

    def _watch_data_out(self) -> None:
        if self.session.transfers.waiting:
            self._budget.wait(self._room)
        if self._watch is None and self.session.transfers.buffered:
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look)

    def _settle(self) -> None:
        """Give back the budget of the answers that the connection has taken."""
        kept = min(self._unsent, self._transport.get_write_buffer_size())
        taken, self._unsent = self._unsent - kept, kept
        if taken:
            self._budget.give(taken)
        if kept and self._watch is None and not self._closing:
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look)

    def _look(self) -> None:
        """Check from time to time whether transfers make progress; disconnect an initiator that stalls."""
        self._watch = None
        if self._closing:
            return
        self._settle()
        transfers: list[Hashable] = [*self.session.awaited]
        if self._unsent:
            transfers.append(self._written - self._transport.get_write_buffer_size())
        if self._stalls.stalled(transfers, self._loop.time()):
            self.give_up("the initiator does not send, or does not receive, the data of a command")
        elif self._watch is None and (transfers or self.session.transfers.buffered):
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look)

    def _give_up_room(self) -> None:
        self._budget.wait_no_more(self._room)
        if self._watch is not None:
            self._watch.cancel()
        self._budget.give(self._unsent)
        self._unsent = 0
        self.session.transfers.clear()


async def _reset(devices: Iterable[DeviceServer]) -> bool:
    """Reset logical units; returns whether all resets succeeded."""
    done = True
    for device in list(devices):
        try:
            await device.reset()
        except Exception:
            _log.exception("a logical unit could not be reset")
            done = False
    return done


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
