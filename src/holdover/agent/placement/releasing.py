"""Releases what a guest has by this host, and forgets guests that have nothing."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from msgspec.structs import replace

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.guests.records import device_record
from holdover.agent.placement.places import Places
from holdover.agent.placement.refusal import ColdStartRefused
from holdover.agent.placement.sending import Sending
from holdover.guest.gate import Gate
from holdover.handover.lun_work.parts import unregister
from holdover.journal.journal import JournalError, JournalLike
from holdover.placement.claim import Word
from holdover.reservations.questions import active_aptpl
from holdover.reservations.steps import StepFailed, Steps
from holdover.reservations.tracked import Tracked
from holdover.scsi.path import PathError
from holdover.scsi.reservation.key import key_text

log = structlog.get_logger()


class Releasing:
    """Removes what guests of this host leave behind."""

    def __init__(
        self,
        host: str,
        guests: dict[str, HostedGuest],
        attached: Callable[[str], Attached | None],
        places: Places,
        sending: Sending,
        journal: JournalLike,
        forget: Callable[[Attached], None],
    ) -> None:
        """``forget`` removes a guest that no file names."""
        self._host = host
        self._guests = guests
        self._attached = attached
        self._places = places
        self._sending = sending
        self._journal = journal
        self._forget = forget

    async def release(self, name: str) -> str:
        """Unregister a guest that does not run from its LUNs, and shut its gate. Returns what is true now.

        If the guest holds a reservation by this host's nexus, it ends with the registration.

        Raises:
            ColdStartRefused: The guest runs or moves, or a LUN refuses.
        """
        attached = self._known(name)
        self._require_at_rest(name)
        await self._sending.require_not_running(attached.guest)
        released, limit = [], attached.guest.limits.step
        try:
            for device in attached.guest.devices:
                if device.block.migrate_pr and (key := await unregister_guest(device, limit)):
                    released.append(f"key {key_text(key)} on {device.designator}")
            attached.move_gate(Gate.DEPARTED)
            await self._journal.put(*(device_record(name, each) for each in attached.guest.devices))
        except (PathError, StepFailed, JournalError) as error:
            done = f"; released so far: {', '.join(released)}" if released else ""
            raise ColdStartRefused(
                f"guest {name} is not released on {self._host}: {error}{done}. holdover guest release {name} "
                "goes on"
            ) from error
        what = ", ".join(released) or "it had nothing there"
        log.warning("A guest was released.", guest=name, changed=what)
        return (
            f"guest {name} is not on {self._host} any more ({what}). To start it: holdover guest start "
            f"{name}, on the host on which it will run"
        )

    async def forget(self, name: str) -> str:
        """Remove a guest that has nothing from this host's record. Returns what is true now.

        Raises:
            ColdStartRefused: It is in the agent's file, runs, moves, or has something.
        """
        attached = self._known(name)
        if attached.listed:
            raise ColdStartRefused(
                f"guest {name} is in the agent's file on {self._host}; remove its [[guest]] there, and "
                "restart the agent"
            )
        self._require_at_rest(name)
        await self._sending.require_not_running(attached.guest)
        if attached.holds:
            raise ColdStartRefused(
                f"guest {name} has registrations by {self._host}, or may have; to remove them: holdover "
                f"guest release {name}; to keep them: holdover guest start {name} on another host"
            )
        self._forget(attached)
        return f"{self._host} does not know guest {name} any more"

    def _known(self, name: str) -> Attached:
        attached = self._attached(name)
        if name not in self._guests or attached is None:
            raise ColdStartRefused(f"{self._host} has no guest {name}; holdover guest list shows its guests")
        return attached

    def _require_at_rest(self, name: str) -> None:
        if self._places.says(name).word is Word.MOVES:
            raise ColdStartRefused(
                f"a handover or a migration of guest {name} is under way on {self._host}; holdover handover "
                f"status {name} says what comes next"
            )


async def unregister_guest(device: GuestDevice, limit: float) -> int:
    """Unregister a guest from one LUN; returns the key that it had.

    Raises:
        StepFailed: What it has is not certain, or the LUN refuses.
        PathError: ``limit`` seconds were not enough.
    """
    await device.learn_designator(limit)
    found = await device.reread(limit)
    tracked = device.tracked
    if not found.certain or device.block.stale:
        raise StepFailed(
            "REGISTER (probe)", device.report or found.reason or "it is not certain what the guest has there"
        )
    if tracked.key:
        await device.run(_unregister(tracked), limit)
        await device.reread(limit)
    if device.tracked.key:
        raise StepFailed("REGISTER (unregister)", "the registration is still there")
    return tracked.key


def _unregister(tracked: Tracked) -> Steps[None]:
    # a REGISTER must not undo an APTPL on which another node relies
    aptpl = yield from active_aptpl(tracked.aptpl)
    yield from unregister(replace(tracked, aptpl=aptpl), tracked.key)
