"""The start of a host: find out which LUN each drive is and what each guest has, then continue handovers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from holdover.agent.attach.attachment import Attachments
from holdover.agent.guests.bounded_gather import bounded_gather
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.guests.records import Remembered
from holdover.agent.guests.retry_pauses import retry_pauses
from holdover.agent.handover.handovers import Handovers
from holdover.agent.handover.preflight import preflight_after_start
from holdover.agent.migration.migrations import Migrations
from holdover.config.agent_file import AgentConfig
from holdover.guest.gate import Gate
from holdover.journal.journal import JournalError
from holdover.reservations.steps import StepFailed
from holdover.scsi.path import PathError

log = structlog.get_logger()

_AT_ONCE = 32
_SECONDS = 5.0
"""The limits while an agent starts: it asks the LUNs of so many guests at once. A guest that takes longer
than these seconds no longer counts towards that number."""

NOTHING_REMEMBERED: Final = Remembered(())
"""What the journal has of a guest that is not on record."""


class Settling:
    """The work of a host that has started, on all guests that it knows at that time."""

    def __init__(
        self,
        guests: Mapping[str, HostedGuest],
        remembered: dict[str, Remembered],
        handovers: Handovers,
        migrations: Migrations,
        attachments: Attachments,
        config: Callable[[], AgentConfig],
        tasks: list[asyncio.Task[None]],
    ) -> None:
        """``remembered`` is what the journal has of each guest. ``tasks`` gets a task for each LUN that does
        not answer yet; the owner ends these tasks.
        """
        self._guests = guests
        self._remembered = remembered
        self._handovers = handovers
        self._migrations = migrations
        self._attachments = attachments
        self._config = config
        self._tasks = tasks

    async def all_guests(self) -> None:
        """Find out which LUN each drive is, and continue the handovers.

        Guests whose handovers are open come first. A LUN that does not answer delays the others only briefly.
        """
        names = sorted(self._guests, key=lambda name: not self._handovers.is_in_handover(name))
        configured = {guest.name: self._guests[guest.name] for guest in self._config().guest if guest.devices}
        await bounded_gather(
            (
                self._settle_guest_in(configured[name])
                if name in configured
                else self._settle_attached_in(name)
                for name in names
            ),
            _AT_ONCE,
            _SECONDS,
        )

    def _go_on(self, name: str) -> None:
        self._handovers.go_on(name)
        self._migrations.go_on(name)

    async def _settle_attached_in(self, name: str) -> None:
        try:
            await self._attachments.look_again(name)
        except Exception as error:
            log.error("The disks of a guest could not be looked for again.", guest=name, exc_info=error)
        self._go_on(name)

    async def _settle_guest_in(self, guest: HostedGuest) -> None:
        remembered = self._remembered.pop(guest.name, NOTHING_REMEMBERED)
        devices = tuple(guest.devices)
        known = await asyncio.gather(*(self._identify(guest.name, each, remembered) for each in devices))
        self._go_on(guest.name)
        away = [device for device, is_known in zip(devices, known, strict=True) if not is_known]
        if away:
            self._tasks += [
                asyncio.ensure_future(self._wait_for(guest.name, each, remembered)) for each in away
            ]

    async def _wait_for(self, guest: str, device: GuestDevice, remembered: Remembered) -> None:
        for pause in retry_pauses(f"{self._config().name}/{guest}/{device.name}"):
            await asyncio.sleep(pause)
            if await self._identify(guest, device, remembered):
                return

    async def _identify(self, guest: str, device: GuestDevice, remembered: Remembered) -> bool:
        """Learn which LUN a device is, and what a guest that runs here has on it; False if the LUN does not
        answer.

        While no agent ran, the guest or others may have changed what the guest has there.
        """
        limit = self._config().limits.connect
        try:
            await device.learn_designator(limit)
            recorded = remembered.identified(device)
            self._handovers.announce(guest)
            if device.block.migrate_pr and device.block.gate is Gate.RUNNING:
                await preflight_after_start(device, limit, recorded=recorded)
            elif not recorded and self._handovers.summary(guest) is not None:
                # Its gate may have moved while the LUN was not known.
                await device.put_on_record()
        except Exception as error:
            # Whatever it is: the guest's handover goes on, and the LUN is asked again.
            known = isinstance(error, PathError | StepFailed | JournalError)
            log.warning(
                "A LUN does not answer yet; the agent tries again.",
                guest=guest,
                lun=device.lun_name,
                reason=str(error) if known else f"{type(error).__name__}: {error}",
            )
            return False
        return True
