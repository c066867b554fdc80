"""Gives the exports of guests the disks that a changed agent's file has, while the guests run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import structlog

from holdover.agent.hotplug.hotplug import Hotplug
from holdover.agent.placement.placement import PlacementProblem
from holdover.api.placement_documents import AttachDisk, DetachDisk
from holdover.config.agent_file import AgentConfig, ConfigError, GuestConfig

log = structlog.get_logger()


class DisksMoved(Exception):
    """The file has a disk at another number than the export; the message names both."""


@dataclass(frozen=True, slots=True)
class DiskChange:
    """What is to be done at a LUN number: the device there goes, and then ``device`` comes, if it is one."""

    number: int
    goes: bool
    device: str | None


def changes(served: Mapping[int, str], wanted: Mapping[int, str]) -> Iterator[DiskChange]:
    """What makes the disks that an export has those that are wanted. Both are devices by LUN number.

    Disks come before others go, since an export needs a disk.

    Raises:
        DisksMoved: A guest would find a disk at another number than before.
    """
    places = {device: number for number, device in wanted.items()}
    for number, device in served.items():
        if places.get(device, number) != number:
            raise DisksMoved(
                f"the agent's file has the disk of LUN {number} at place {places[device]}, and the place in "
                "devices is the LUN number; restore the order, or restart the agent when the guest is down"
            )
    for number in sorted(wanted.keys() - served.keys()):
        yield DiskChange(number, goes=False, device=wanted[number])
    for number in sorted(served):
        if wanted.get(number) != served[number]:
            yield DiskChange(number, goes=True, device=wanted.get(number))


class FileDisks:
    """Carries out the changes of the disks in the agent's file, those of one reload after the other."""

    def __init__(self, config: Callable[[], AgentConfig], hotplug: Hotplug) -> None:
        self._config = config
        self._hotplug = hotplug
        self._task: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Begin; what cannot be done is logged, and the next reload tries it again."""
        self._task = asyncio.ensure_future(self._follow_all(self._task))

    async def close(self) -> None:
        """Stop. A change that is under way is completed or taken back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow_all(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        for guest in self._config().guest:
            if guest.export is not None and self._hotplug.served(guest.name):
                await self._follow(guest)

    async def _follow(self, guest: GuestConfig) -> None:
        try:
            todo = list(changes(self._hotplug.served(guest.name), await self._hotplug.wanted(guest)))
        except (DisksMoved, ConfigError, OSError) as error:
            self._waits(guest.name, error)
            return
        for change in todo:
            try:
                await self._carry_out(guest.name, change)
            except PlacementProblem as error:
                self._waits(guest.name, error)

    async def _carry_out(self, guest: str, change: DiskChange) -> None:
        if change.goes:
            await self._hotplug.detach(guest, DetachDisk(lun=change.number))
        if change.device is not None:
            await self._hotplug.attach(guest, AttachDisk(device=change.device, lun=change.number))

    def _waits(self, guest: str, error: Exception) -> None:
        log.warning(
            "The disks of a guest are not yet those of the agent's file; remove the cause and reload again.",
            guest=guest,
            reason=str(error),
        )
