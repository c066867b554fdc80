"""The exports of a simulation: the sessions by which a guest's QEMU, and what runs beside it, use its disks.

The commands of a session run as the target of an agent runs them (`RunningCommands`). Nothing below that is
simulated: no login and no PDU.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Self

from holdover.agent.guests.device import GuestDevice
from holdover.iscsi.target.events import CommandReceived
from holdover.iscsi.target.running import RunningCommands
from holdover.reservations.steps import StepFailed
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import PathError
from holdover.scsi.reservation.transport_id import IscsiTransportID

NAMES = ("iqn.2026-11.org.example:qemu", "iqn.2026-11.org.example:backup")
"""The initiators that log in to a guest's export."""

INITIATORS = (NAMES[0], NAMES[0], NAMES[1])
"""Whose each session at an export is: QEMU has one for each of its disks."""

SESSIONS = tuple(
    ITNexus(IscsiTransportID(name, bytes((0x80, 0, 0, 0, 0, number))))
    for number, name in enumerate(INITIATORS)
)
"""Their nexuses at the export."""


class Listener:
    """The socket at which an export listens. Nobody connects to it."""

    def __init__(self, _family: int, address: tuple[str, int]) -> None:
        self._address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def getsockname(self) -> tuple[str, int]:
        """The address."""
        return self._address

    def fileno(self) -> int:
        """No descriptor that the system knows."""
        return -1

    def setblocking(self, flag: bool) -> None:
        """Nothing blocks here."""

    def close(self) -> None:
        """There is nothing to close."""


class Sessions:
    """The sessions of one guest at the agent of one machine."""

    def __init__(self, process: asyncio.AbstractEventLoop, devices: list[GuestDevice]) -> None:
        self._devices = dict(enumerate(devices))
        self._running = [RunningCommands(process, self._ended) for _ in SESSIONS]
        self._logging_in = [asyncio.Lock() for _ in SESSIONS]
        self._tags = itertools.count(1)
        self._waiting: dict[int, tuple[int, Callable[[Response | None], None]]] = {}

    async def start(
        self, session: int, lun: int, command: Command, answer: Callable[[Response | None], None]
    ) -> int:
        """Start a command; ``answer`` gets its response, or None if it was aborted. Returns its tag."""
        async with self._logging_in[session]:
            return self._start(session, lun, command, answer)

    def _start(
        self, session: int, lun: int, command: Command, answer: Callable[[Response | None], None]
    ) -> int:
        tag = next(self._tags)
        self._waiting[tag] = lun, answer
        event = CommandReceived(tag, lun, command)
        response = self._running[session].start(self._devices, SESSIONS[session], event)
        if response is not None:
            self._ended(event, response)
        return tag

    def _ended(self, event: CommandReceived, response: Response | None) -> None:
        _, answer = self._waiting.pop(event.tag)
        answer(response)

    async def abort(self, tag: int) -> None:
        """ABORT TASK."""
        for each in self._running:
            await each.stop([tag])

    async def reset(self, lun: int) -> None:
        """LOGICAL UNIT RESET: the commands of all sessions end, then the device does its part."""
        tags = [tag for tag, (number, _) in self._waiting.items() if number == lun]
        for each in self._running:
            await each.stop(tags)
        with contextlib.suppress(PathError, StepFailed):
            await self._devices[lun].reset()

    async def end(self, session: int) -> None:
        """The connection of a session has ended, and so have its commands."""
        async with self._logging_in[session]:
            await self._running[session].stop_all()
            for device in self._devices.values():
                await device.nexus_lost(SESSIONS[session])
