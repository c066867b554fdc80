"""The monitor (QMP) of one QEMU: its commands, all its events, and what QEMU reports about itself.

A `QemuMonitor` keeps every event since it connected, so that a wait that begins late still sees an early
event.
QEMU serves one client of a monitor socket at a time: a second client waits for its greeting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from qemu.qmp import ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate

_AnswerT = TypeVar("_AnswerT")

_CONNECT_TIMEOUT = 10.0
_COMMAND_TIMEOUT = 30.0
_ENDING_INTERVAL = 0.01


class QemuError(Exception):
    """QEMU cannot be reached, refuses a command or misbehaves; the message says which QEMU."""


class QemuRefused(QemuError):
    """QEMU has answered that it does not carry out a command."""


class MonitorAbsent(QemuError):
    """Nobody listens at the socket of a monitor. For a socket of this host this means: there is no QEMU."""


class MonitorLost(QemuError):
    """The connection to a QEMU's monitor has ended: QEMU has ended, or something closed the connection.

    It is then not known whether QEMU carried out a command that was on its way.
    """


@dataclass(frozen=True, slots=True, order=True)
class QmpTime:
    """The time of an event, by the clock of QEMU's host: seconds since the epoch, and microseconds."""

    seconds: int
    microseconds: int

    def milliseconds_since(self, earlier: QmpTime) -> float:
        """The time from `earlier` to this time, in ms. It has a meaning only if both are of one clock."""
        return (self.seconds - earlier.seconds) * 1000 + (self.microseconds - earlier.microseconds) / 1000


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """One event as QEMU sent it."""

    name: str
    time: QmpTime
    data: Mapping[str, object] = field(default_factory=dict)

    @property
    def migration_status(self) -> str | None:
        """The status that a MIGRATION event announces; None for every other event."""
        return str(self.data.get("status")) if self.name == "MIGRATION" else None


class RamProgress(msgspec.Struct, frozen=True):
    """How much of the guest's memory was sent, in bytes; `remaining` may grow while the guest writes."""

    transferred: int = 0
    remaining: int = 0
    total: int = 0


class MigrationStatus(msgspec.Struct, frozen=True, rename={"error": "error-desc"}):
    """The answer to query-migrate. `status` is "none" before the first migration."""

    status: str = "none"
    error: str | None = None
    ram: RamProgress | None = None


class _RunState(msgspec.Struct, frozen=True):
    status: str


class _Name(msgspec.Struct, frozen=True):
    name: str | None = None


class _Uuid(msgspec.Struct, frozen=True, rename={"uuid": "UUID"}):
    uuid: str


class _Timestamp(msgspec.Struct, frozen=True):
    seconds: int
    microseconds: int


class _EventMessage(msgspec.Struct, frozen=True):
    event: str
    timestamp: _Timestamp
    data: dict[str, object] = {}


class QemuMonitor:
    """A connected monitor; `connect` makes one. Its methods raise only `QemuError` and its subclasses."""

    def __init__(self, path: Path, name: str) -> None:
        """Only `connect` calls this."""
        self.path = path
        self.name = name
        self._client = QMPClient(name)
        self._events: list[QmpEvent] = []

    @classmethod
    async def connect(cls, path: Path | str, name: str, *, timeout: float = _CONNECT_TIMEOUT) -> Self:
        """Connect to the monitor socket at `path`. Errors call this QEMU `name`, such as "QEMU on host-a"."""
        monitor = cls(Path(path), name)
        try:
            async with asyncio.timeout(timeout):
                await monitor._client.connect(str(path))
        except TimeoutError:
            problem = (
                f"no greeting within {timeout:g} s (QEMU serves one client per monitor; another may hold it)"
            )
            raise QemuError(f"{name}, monitor {path}: {problem}") from None
        except QMPError as error:
            cause = _root_cause(error)
            absent = isinstance(cause, ConnectionRefusedError | FileNotFoundError)
            kind = MonitorAbsent if absent else QemuError
            raise kind(f"{name}, monitor {path}: cannot connect: {cause}") from error
        return monitor

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float = _COMMAND_TIMEOUT,
    ) -> object:
        """Send one command; returns the value that QEMU returned."""
        try:
            async with asyncio.timeout(timeout):
                return await self._client.execute(command, arguments)
        except TimeoutError:
            raise QemuError(f"{self.name}: no answer to {command} within {timeout:g} s") from None
        except ExecuteError as error:
            raise QemuRefused(f"{self.name} refuses {command}: {error}") from error
        except ExecInterruptedError as error:
            raise MonitorLost(f"{self.name}: its monitor was lost during {command}") from error
        except QMPError as error:
            if self.lost:
                raise MonitorLost(f"{self.name}: its monitor is lost, {command} was not sent") from error
            raise QemuError(f"{self.name}: {command}: {error}") from error

    async def close(self) -> None:
        """Close the connection. This does not change QEMU, and may be called again."""
        # disconnect() raises the error that ended the connection; callers have had MonitorLost for it.
        with contextlib.suppress(Exception):
            await self._client.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, from either side."""
        return self._client.runstate is not Runstate.RUNNING

    async def is_gone(self) -> bool:
        """Whether no process listens at the socket any more. For a local socket this means: QEMU has ended.

        A connection that ended does not prove this. A socket that refuses connections, or does not exist,
        proves it. A QEMU that ends closes its connections first and its socket later, so a new connection
        must bring a greeting. A QEMU that is stopped or hangs still has its socket open: it greets nobody,
        and after ten seconds it counts as not gone.
        """
        if not self.lost:
            return False
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                while not await self._greets():  # noqa: ASYNC110 - no event
                    await asyncio.sleep(_ENDING_INTERVAL)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:  # A TimeoutError is one as well.
            return False
        return False

    async def _greets(self) -> bool:
        """Whether a new connection brings a greeting; False when it ends first. May raise OSError."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            return bool(await reader.read(1))
        except ConnectionResetError:
            return False
        finally:
            writer.close()

    @property
    def events(self) -> tuple[QmpEvent, ...]:
        """Every event since the connection began, oldest first."""
        history = self._client.events.history
        self._events += map(_event, history[len(self._events) :])
        return tuple(self._events)

    async def wait_event(self, wanted: Callable[[QmpEvent], bool], *, since: int = 0) -> QmpEvent:
        """The first event after the first `since` events that `wanted` accepts; it may have come already.

        Waits without a time limit. Raises MonitorLost when the connection ends before such an event.
        """
        with self._client.listener() as fresh:
            ended = asyncio.create_task(self._until_lost())
            arrival: asyncio.Task[Message] | None = None
            try:
                while True:
                    events = self.events
                    for event in events[since:]:
                        if wanted(event):
                            return event
                    since = len(events)
                    if self.lost:
                        raise MonitorLost(f"{self.name}: its monitor was lost")
                    # The event is read from the history above; this task only wakes the loop.
                    arrival = asyncio.create_task(fresh.get())
                    await asyncio.wait({arrival, ended}, return_when=asyncio.FIRST_COMPLETED)
                    arrival.cancel()
            finally:
                ended.cancel()
                if arrival is not None:
                    arrival.cancel()

    async def _until_lost(self) -> None:
        while not self.lost:
            await self._client.runstate_changed()

    async def query_status(self) -> str:
        """QEMU's run state: "running", "paused", "inmigrate", "finish-migrate", "postmigrate", ..."""
        return (await self._ask("query-status", _RunState)).status

    async def query_migrate(self) -> MigrationStatus:
        """The status of the migration."""
        return await self._ask("query-migrate", MigrationStatus)

    async def query_name(self) -> str | None:
        """The guest's name (`-name`); None when it has no name."""
        return (await self._ask("query-name", _Name)).name

    async def query_uuid(self) -> str:
        """The guest's UUID; all zeros when QEMU was started without a UUID."""
        return (await self._ask("query-uuid", _Uuid)).uuid

    async def _ask(self, command: str, answer: type[_AnswerT]) -> _AnswerT:
        returned = await self.execute(command)
        try:
            return msgspec.convert(returned, answer)
        except msgspec.ValidationError as error:
            raise QemuError(f"{self.name}: its answer to {command} is not valid: {error}") from error


def _event(message: Message) -> QmpEvent:
    raw = msgspec.convert(dict(message), _EventMessage)
    return QmpEvent(raw.event, QmpTime(raw.timestamp.seconds, raw.timestamp.microseconds), raw.data)


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
