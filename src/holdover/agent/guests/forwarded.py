"""A guest's command that its device has passed on to the LUN at once, without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from holdover.agent.guests.export_nexuses import ExportNexuses
from holdover.agent.guests.lun_nexus import LunNexus
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import ScsiBlock
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.names import encode_lun
from holdover.iscsi.relayed import RelayedCommand
from holdover.lun.shared_reserve import RESERVE_AND_RELEASE
from holdover.paths.submitted import Forwards, Relays
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status

_CHECK_CONDITION, _RUNNING = Status.CHECK_CONDITION, Gate.RUNNING
"""For every command of the guest: an enum's attribute costs 0.1 µs."""

_PLAIN = int(OperationCode.READ_10)
"""Stands for the operation codes of plain commands: no rule here makes a difference among them."""


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


class ForwardedCommand(msgspec.Struct, eq=False):
    """A command at the LUN, in flight. The path tells it the end, and the front end may abort it.

    Attributes:
        path: The path by which the command has gone.
        abort_at_path: The path's function that aborts the command.
    """

    _home: Home
    path: Forwards
    _command: Command
    _answered: Callable[[Response], None] | None
    abort_at_path: Callable[[], Awaitable[None]] | None = None
    _under_way: bool = True
    _recording: asyncio.Task[None] | None = None

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
        if self.abort_at_path is not None:
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


class RelayEnd:
    """The LUN's end of plain commands of the guest (`holdover.iscsi.relayed.FarEnd`)."""

    __slots__ = ("_home", "_initiator", "_number", "_path", "lun", "session")

    def __init__(self, home: Home, path: Relays, initiator: IscsiInitiator, number: int) -> None:
        self.session = initiator.session.relay
        self.lun = encode_lun(number)
        self._home = home
        self._path = path
        self._initiator = initiator
        self._number = number

    def begun(self) -> None:
        """Note that a command was given to the session."""
        self._home.in_flight_here.begin()

    def ended(self) -> None:
        """Note that a command has had its plain answer."""
        self._home.in_flight_here.end()

    def flush_soon(self) -> None:
        """Have the session's bytes sent soon."""
        self._initiator.flush_soon()

    def ordinary(
        self, relayed: RelayedCommand, command: Command, answered: Callable[[Response], None]
    ) -> ForwardedCommand:
        """Make a command an ordinary one, as `forward` would have passed it on."""
        forwarded = ForwardedCommand(self._home, self._path, command, answered)
        forwarded.abort_at_path = self._initiator.adopt(relayed, self._number, command, forwarded)
        return forwarded


def forward(
    home: Home, front: ExportNexuses, nexus: ITNexus, command: Command, answered: Callable[[Response], None]
) -> ForwardedCommand | None:
    """Pass a command on now; None for one that has to wait, or that is not for the LUN alone.

    ``front`` has the nexuses of the export, and ``nexus`` is that of the session whose command it is.
    """
    shared = _nexus_now(home, front, nexus, command.opcode)
    if shared is None or (path := shared.forwards) is None:
        return None
    forwarded = ForwardedCommand(home, path, command, answered)
    abort = path.forward(command, forwarded)
    if abort is None:
        return None
    forwarded.abort_at_path = abort
    home.in_flight_here.begin()
    return forwarded


def far_end(home: Home, front: ExportNexuses, nexus: ITNexus) -> RelayEnd | None:
    """Where plain commands of a session go at this moment; None: they are ordinary ones."""
    shared = _nexus_now(home, front, nexus, _PLAIN)
    if shared is None or shared.relays is None or (relays := shared.relays.relays) is None:
        return None
    initiator, lun = relays
    return RelayEnd(home, shared.relays, initiator, lun)


def _nexus_now(home: Home, front: ExportNexuses, nexus: ITNexus, opcode: int) -> LunNexus | None:
    """The nexus to the LUN of a command that need not wait, and that is for the LUN alone; otherwise None."""
    block = home.block
    if block.gate is not _RUNNING or front.losing or not block.passes_through(opcode):
        return None
    shared = front.of(nexus, alone=block.migrate_pr)
    if shared.watched or opcode in RESERVE_AND_RELEASE:
        return None
    return shared
