"""A guest's command that its device has passed on to the LUN at once, without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from holdover.agent.guests.export_nexuses import ExportNexuses
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import ScsiBlock
from holdover.lun.shared_reserve import RESERVE_AND_RELEASE
from holdover.paths.submitted import Forwards
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status

_CHECK_CONDITION = Status.CHECK_CONDITION  # for every command of the guest: an enum's attribute costs 0.1 µs


class InFlight:
    """How many commands of a guest are at its LUN.

    Attributes:
        count: That number.
    """

    def __init__(self) -> None:
        self.count = 0
        self._ended: asyncio.Event | None = None

    def begin(self) -> None:
        """Count a command that begins."""
        self.count += 1

    def end(self) -> None:
        """Count a command that has ended."""
        self.count -= 1
        if not self.count and self._ended is not None:
            self._ended.set()
            self._ended = None

    async def ended(self) -> None:
        """Wait for a moment at which no command is in flight."""
        if self.count:
            self._ended = self._ended or asyncio.Event()
            await self._ended.wait()


class Home(Protocol):
    """The device of a forwarded command."""

    @property
    def block(self) -> ScsiBlock:
        """What the guest sees."""
        ...

    @property
    def in_flight_here(self) -> InFlight:
        """The commands of the guest that are at the LUN by way of the event loop."""
        ...

    def unanswered(self, command: Command, error: Exception) -> Response:
        """The response of a command that the LUN did not answer."""
        ...

    async def has_become_stale(self) -> None:
        """Put on record that the tracked state has become doubtful."""
        ...


class ForwardedCommand:
    """A command at the LUN, in flight. The path tells it the end, and the front end may abort it.

    Attributes:
        path: The path by which the command has gone.
        abort_at_path: The path's function that aborts the command.
    """

    __slots__ = ("_answered", "_command", "_home", "_recording", "_under_way", "abort_at_path", "path")

    def __init__(
        self, home: Home, path: Forwards, command: Command, answered: Callable[[Response], None]
    ) -> None:
        self.abort_at_path: Callable[[], Awaitable[None]]
        self.path = path
        self._home = home
        self._command = command
        self._answered: Callable[[Response], None] | None = answered
        self._under_way = True
        self._recording: asyncio.Task[None] | None = None

    def answered(self, response: Response) -> None:
        """Take the LUN's response: the guest gets it when what it says is on record."""
        if response.status is _CHECK_CONDITION and self._home.block.observe_attention(response):
            self._recording = asyncio.ensure_future(self._record(response))
        else:
            self._end(response)

    def failed(self, error: Exception) -> None:
        """Take the reason why there is no response."""
        self._end(self._home.unanswered(self._command, self.path.explain(error)))

    async def abort(self) -> None:
        """Abort the command; return when it does nothing to the LUN any more, and has ended here."""
        self._answered = None
        await self.abort_at_path()
        if self._recording is not None:
            await asyncio.wait([self._recording])
        self._end(None)

    async def _record(self, response: Response) -> None:
        try:
            await self._home.has_become_stale()
        finally:
            self._end(response)

    def _end(self, response: Response | None) -> None:
        if not self._under_way:
            return
        self._under_way = False
        self._home.in_flight_here.end()
        if self._answered is not None and response is not None:
            self._answered(response)


def forward(
    home: Home, front: ExportNexuses, nexus: ITNexus, command: Command, answered: Callable[[Response], None]
) -> ForwardedCommand | None:
    """Pass a command on now; None for one that has to wait, or that is not for the LUN alone.

    ``front`` has the nexuses of the export, and ``nexus`` is that of the session whose command it is.
    """
    block = home.block
    if block.gate is not Gate.RUNNING or front.losing or not block.passes_through(command):
        return None
    shared = front.of(nexus, alone=block.migrate_pr)
    path = shared.forwards
    if path is None or shared.watched or command.opcode in RESERVE_AND_RELEASE:
        return None
    forwarded = ForwardedCommand(home, path, command, answered)
    abort = path.forward(command, forwarded)
    if abort is None:
        return None
    forwarded.abort_at_path = abort
    home.in_flight_here.begin()
    return forwarded
