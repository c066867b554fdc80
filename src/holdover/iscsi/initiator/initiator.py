"""An iSCSI initiator on asyncio: one session with one target over one connection."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar, cast

from holdover.iscsi.errors import ConnectError, ConnectionLost, TaskManagementError
from holdover.iscsi.header import Buffer
from holdover.iscsi.initiator.events import (
    CommandCompleted,
    CommandFailed,
    InitiatorEvent,
    LoggedIn,
    LoginFailed,
    LogoutRequested,
    SessionClosed,
    TargetsReceived,
    TaskManagementCompleted,
)
from holdover.iscsi.initiator.login import InitiatorConfig, config_of, credentials_of
from holdover.iscsi.initiator.session import InitiatorSession
from holdover.iscsi.keep_alive import KeepAlive
from holdover.iscsi.names import check_iscsi_name
from holdover.iscsi.negotiation import NegotiationLimits, Parameters
from holdover.iscsi.numbers import TaskManagementFunction, TaskManagementResponse
from holdover.iscsi.relayed import RelayedCommand
from holdover.network.pending_flushes import pending_flushes
from holdover.network.receive_buffer import receive_buffer
from holdover.scsi.command import Command, Response
from holdover.scsi.path import Awaited

_LOGOUT_TIMEOUT = 2.0
_SILENT = "the target does not answer"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DiscoveredTarget:
    """A target and the portals at which it can be reached, "host:port,tag" each."""

    name: str
    addresses: tuple[str, ...]


class _AwaitedFuture:
    """A future that gets the end of one command."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Response]) -> None:
        self._future = future

    def answered(self, response: Response) -> None:
        if not self._future.done():
            self._future.set_result(response)

    def failed(self, error: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class _Connection(asyncio.BufferedProtocol):
    """Moves bytes between a transport and a session."""

    def __init__(self, initiator: IscsiInitiator) -> None:
        self._initiator = initiator
        # The buffer is shared: its bytes are taken out before the next connection gets it.
        self._buffer = receive_buffer(asyncio.get_running_loop())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._initiator._connected(cast(asyncio.Transport, transport))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio names it
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._initiator._received(self._buffer[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self._initiator._lose(f"connection lost: {exc}" if exc else "the target closed the connection")


class IscsiInitiator:
    """A session that is logged in. `connect` makes one; any number of commands may be in flight.

    A lost session stays lost: call `connect` again.
    """

    def __init__(self, session: InitiatorSession, where: str, ping: tuple[float, float] | None) -> None:
        self.session = session
        self._where = where
        self._keep_alive: KeepAlive | None = None
        if ping is not None:
            self._keep_alive = KeepAlive(*ping, self._ask, lambda: self._lose(_SILENT))
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._login: asyncio.Future[Parameters] = self._loop.create_future()
        self._commands: dict[int, tuple[Awaited, int, Command]] = {}
        self._functions: dict[int, asyncio.Future[int]] = {}
        self._texts: dict[int, asyncio.Future[tuple[tuple[str, str], ...]]] = {}
        self._closed: asyncio.Future[str] = self._loop.create_future()
        self._leaving = ""
        self._flushes = pending_flushes(self._loop)
        self._flush_due = False

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        target: str,
        initiator_name: str,
        isid: bytes,
        *,
        user: str | None = None,
        password: str | None = None,
        target_user: str | None = None,
        target_password: str | None = None,
        limits: NegotiationLimits | None = None,
        timeout: float = 10.0,
        ping_interval: float | None = 5.0,
        ping_timeout: float = 10.0,
    ) -> Self:
        """Connect and log in.

        Args:
            host, port: The portal.
            target: Name of the target.
            initiator_name, isid: The initiator port; the ISID has 6 bytes. The new session ends an earlier
                session of the same port with the same target.
            user, password: For CHAP, both or neither.
            target_user, target_password: The credentials that the target must prove, both or neither.
            limits: The wishes for the negotiation.
            timeout: The most seconds that connecting and logging in may take.
            ping_interval: The seconds of silence of the target after which this side sends a ping; None for
                never.
            ping_timeout: The seconds in which the target must answer, or the connection is given up.

        Raises:
            LoginError: The target refused.
            ConnectError: There is no connection, or no answer in time.
            IscsiNameError: A name is not an iSCSI name.
            ValueError: The ISID does not have 6 bytes, or the credentials cannot be used together.
        """
        credentials = credentials_of(user, password)
        mutual = credentials_of(target_user, target_password)
        name = check_iscsi_name(target)
        config = config_of(initiator_name, isid, name, credentials, mutual, limits)
        ping = None if ping_interval is None else (ping_interval, ping_timeout)
        return await cls._open(host, port, config, timeout, ping)

    @classmethod
    async def _open(
        cls, host: str, port: int, config: InitiatorConfig, timeout: float, ping: tuple[float, float] | None
    ) -> Self:
        where = f"{host}:{port}"
        self = cls(InitiatorSession(config, secrets.token_bytes), where, ping)
        try:
            async with asyncio.timeout(timeout):
                await self._loop.create_connection(lambda: _Connection(self), host, port)
                await self._login
        except TimeoutError:
            self._lose("no answer")
            raise ConnectError(f"{where}: no login within {timeout:g} s") from None
        except OSError as error:
            self._lose("no connection")
            # asyncio puts a sentence of its own into the error, and not the system's
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConnectError(f"{where}: cannot connect: {reason}") from error
        except BaseException:
            self._lose("login not complete")
            raise
        if self._keep_alive is not None and self.lost is None:
            self._keep_alive.start()
        return self

    @property
    def parameters(self) -> Parameters:
        """The negotiated parameters."""
        return self.session.parameters

    @property
    def lost(self) -> str | None:
        """The reason why the session is over, or None while it is not."""
        return self._closed.result() if self._closed.done() else None

    async def wait_lost(self) -> str:
        """Wait for the end of the session; returns the reason."""
        return await asyncio.shield(self._closed)

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once when the session is over, or soon if it is over already."""
        self._closed.add_done_callback(lambda _: call())

    async def execute(self, lun: int, command: Command) -> Response:
        """Carry out one command.

        Cancelling this aborts the command (ABORT TASK). It returns when the target has confirmed the end of
        the command, so that the command does nothing to the logical unit afterwards.

        Raises:
            ConnectionLost: The answer never came; the error says whether the command was sent.
            CommandRefused: The target answered with something other than a SCSI status.
            ValueError: The logical unit number or the CDB cannot be sent.
        """
        future: asyncio.Future[Response] = self._loop.create_future()
        tag = self._begin(lun, command, _AwaitedFuture(future))
        try:
            return await future
        except asyncio.CancelledError:
            await self._abort(tag)
            raise
        finally:
            self._end(tag)

    def submit(self, lun: int, command: Command) -> asyncio.Future[Response]:
        """Begin one command. The future has its response, or an error as `execute` raises it.

        Commands that begin in one turn of the event loop go in one write. If the future is cancelled, the
        command is aborted, and nobody waits for the target to confirm its end.

        Raises:
            ConnectionLost, ValueError: As `execute`, if the command was not sent.
        """
        future: asyncio.Future[Response] = self._loop.create_future()
        tag = self._begin(lun, command, _AwaitedFuture(future))

        def ended(future: asyncio.Future[Response]) -> None:
            if future.cancelled() and self.lost is None:
                self.session.abort(tag)
                self.flush_soon()
            self._end(tag)

        future.add_done_callback(ended)
        return future

    def forward(self, lun: int, command: Command, awaited: Awaited) -> Callable[[], Awaitable[None]]:
        """Begin one command, and tell its end to ``awaited``, without a task or a future.

        Commands that begin in one turn of the event loop go in one write.

        Returns:
            A function that aborts the command: it returns when the target has confirmed the end of the
            command, or the session is lost.

        Raises:
            ConnectionLost, ValueError: As `execute`, if the command was not sent. ``awaited`` is not told.
        """
        return partial(self._abort_and_end, self._begin(lun, command, awaited))

    def _begin(self, lun: int, command: Command, awaited: Awaited) -> int:
        if self._leaving or self._closed.done():
            reason = self.lost or self._leaving
            raise ConnectionLost(f"{self._where}: {reason}", lun=lun, command=command, sent=False)
        tag = self.session.execute(lun, command)
        self._commands[tag] = (awaited, lun, command)
        self.flush_soon()
        return tag

    @property
    def relays(self) -> bool:
        """Whether the session may take relayed commands now."""
        session = self.session
        return not (self._leaving or session.digests or self._closed.done() or session.closed)

    def adopt(
        self, relayed: RelayedCommand, lun: int, command: Command, awaited: Awaited
    ) -> Callable[[], Awaitable[None]]:
        """Make a relayed command an ordinary one, as `forward` would have begun it."""
        self.session.relay.make_ordinary(relayed, command)
        self._commands[relayed.far_tag] = (awaited, lun, command)
        return partial(self._abort_and_end, relayed.far_tag)

    async def _abort_and_end(self, tag: int) -> None:
        try:
            await self._abort(tag)
        finally:
            self._end(tag)

    def _end(self, tag: int) -> None:
        self._commands.pop(tag, None)
        self._leave_when_idle()

    async def reset_logical_unit(self, lun: int) -> None:
        """LOGICAL UNIT RESET.

        Raises:
            TaskManagementError: The target did not do it.
            ConnectionLost: The answer never came.
        """
        await self._manage(TaskManagementFunction.LOGICAL_UNIT_RESET, lun)

    async def close(self) -> None:
        """Log out and close. Commands in flight fail with ConnectionLost."""
        if self.lost is None:
            self._leaving = self._leaving or "this side closes the session"
            self.session.logout()
            self._flush()
            try:
                async with asyncio.timeout(_LOGOUT_TIMEOUT):
                    await asyncio.shield(self._closed)
            except TimeoutError:
                pass
            finally:
                self._lose("this side closed the session")

    # The connection's side

    def _connected(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._flush()

    def _received(self, data: Buffer) -> None:
        if self._keep_alive is not None:
            self._keep_alive.received()
        self._flushes.receiving()
        try:
            self.session.receive_data(data)
            for event in self.session.events_received():
                self._handle(event)
            if self._leaving:
                self._leave_when_idle()
        finally:
            self._flushes.received(self._flush)

    def _handle(self, event: InitiatorEvent) -> None:
        if isinstance(event, CommandCompleted):
            if (sent := self._commands.pop(event.tag, None)) is not None:
                sent[0].answered(event.response)
        elif isinstance(event, CommandFailed):
            if (sent := self._commands.pop(event.tag, None)) is not None:
                sent[0].failed(event.error)
        elif isinstance(event, TaskManagementCompleted):
            _resolve(self._functions.get(event.tag), event.response)
        elif isinstance(event, TargetsReceived):
            _resolve(self._texts.get(event.tag), event.pairs)
        elif isinstance(event, LoggedIn):
            _resolve(self._login, event.parameters)
        elif isinstance(event, LoginFailed):
            if not self._login.done():
                self._login.set_exception(event.error)
        elif isinstance(event, LogoutRequested):
            self._leaving = "the target asked for a logout"
            self._loop.call_later(event.seconds, self._lose, self._leaving)
        elif isinstance(event, SessionClosed):
            self._flush()
            self._lose(event.reason)

    def _leave_when_idle(self) -> None:
        """Log out, as the target asked, when no command is in flight."""
        if self._leaving and not self._commands and not self.session.relay.commands and self.lost is None:
            self.session.logout()
            self._flush()

    async def _abort(self, tag: int) -> None:
        if self.lost is not None:
            return
        function_tag = self.session.abort(tag)
        if function_tag is not None:
            await self._answer(function_tag)

    async def _manage(self, function: TaskManagementFunction, lun: int) -> None:
        if reason := self.lost or self._leaving:
            raise ConnectionLost(f"{self._where}: {reason}", lun=lun, sent=False)
        answer = await self._answer(self.session.manage(function, lun))
        if answer is None:
            raise ConnectionLost(f"{self._where}: {self.lost}", lun=lun)
        if answer != TaskManagementResponse.FUNCTION_COMPLETE:
            known = next((entry for entry in TaskManagementResponse if entry == answer), None)
            words = f"response {answer}" if known is None else known.name.replace("_", " ")
            name = function.name.replace("_", " ")
            raise TaskManagementError(f"{self._where}: {name} of LUN {lun}: {words}", known)

    async def _answer(self, function_tag: int) -> int | None:
        """The answer to a task management function; None when the connection ended first."""
        future: asyncio.Future[int] = self._loop.create_future()
        self._functions[function_tag] = future
        self._flush()
        try:
            return await future
        except _LostError:
            return None
        finally:
            del self._functions[function_tag]

    async def _discover(self, wanted: str) -> tuple[tuple[str, str], ...]:
        tag = self.session.send_targets(wanted)
        future: asyncio.Future[tuple[tuple[str, str], ...]] = self._loop.create_future()
        self._texts[tag] = future
        self._flush()
        try:
            return await future
        except _LostError as error:
            raise ConnectionLost(f"{self._where}: {error}") from None
        finally:
            del self._texts[tag]

    def _ask(self) -> None:
        self.session.ping()
        self._flush()

    def _lose(self, reason: str) -> None:
        """End the session, and tell everyone who waits for an answer."""
        if self._closed.done():
            return
        self._closed.set_result(reason)
        if self._keep_alive is not None:
            self._keep_alive.stop()
        if not self._login.done():
            self._login.set_exception(ConnectError(f"{self._where}: {reason} during login"))
            # Perhaps no caller waits for this future any more.
            self._login.exception()
        self.session.relay.commands.make_all_ordinary()
        commands, self._commands = self._commands, {}
        for tag, (awaited, lun, command) in commands.items():
            sent = self.session.was_sent(tag)
            awaited.failed(ConnectionLost(f"{self._where}: {reason}", lun=lun, command=command, sent=sent))
        waiting: list[asyncio.Future[Any]] = [*self._functions.values(), *self._texts.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(_LostError(reason))
        if self._transport is not None:
            self._transport.abort() if reason == _SILENT else self._transport.close()

    def flush_soon(self) -> None:
        """Send the session's bytes soon."""
        if not self._flush_due:
            self._flush_due = True
            self._flushes.add(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._transport is not None and not self._transport.is_closing():
            buffers = self.session.data_to_send()
            if buffers:
                self._transport.writelines(buffers)


class _LostError(Exception):
    """The connection ended while something other than a command waited for an answer."""


def _resolve(future: asyncio.Future[_T] | None, value: _T) -> None:
    if future is not None and not future.done():
        future.set_result(value)


async def send_targets(
    host: str,
    port: int,
    *,
    initiator_name: str,
    isid: bytes,
    wanted: str = "All",
    user: str | None = None,
    password: str | None = None,
    timeout: float = 10.0,
) -> list[DiscoveredTarget]:
    """The targets of a portal, from a discovery session.

    Raises the errors of `IscsiInitiator.connect`, and ConnectionLost.
    """
    config = config_of(initiator_name, isid, None, credentials_of(user, password), None, None)
    initiator = await IscsiInitiator._open(host, port, config, timeout, None)
    try:
        async with asyncio.timeout(timeout):
            pairs = await initiator._discover(wanted)
    except TimeoutError:
        raise ConnectError(f"{host}:{port}: no answer to SendTargets within {timeout:g} s") from None
    finally:
        await initiator.close()
    found: dict[str, list[str]] = {}
    name = ""
    for key, value in pairs:
        if key == "TargetName":
            name = value
            found.setdefault(name, [])
        elif key == "TargetAddress" and name:
            found[name].append(value)
    return [DiscoveredTarget(target, tuple(addresses)) for target, addresses in found.items()]
