"""Guests that no file names, and devices that came as descriptors, in the journal and back from there."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import structlog

from holdover.agent.attached import Attached
from holdover.agent.device import GuestDevice
from holdover.agent.records import device_record, keep_records
from holdover.guest.scsi_block import BlockState
from holdover.journal.journal import JournalLike
from holdover.journal.records import DeviceRecord, GuestRecord, Key
from holdover.scsi.inquiry import Designator

__all__ = ["ATTACHED", "EXPECTED", "Keeper", "state_of"]

log = structlog.get_logger()

ATTACHED, EXPECTED = "attached", "expected"
"""Where a guest is from that no file names."""


class Keeper:
    """Keeps attached guests in a journal."""

    def __init__(self, journal: JournalLike) -> None:
        self._journal = journal

    def watch(self, attached: Attached, device: GuestDevice) -> None:
        """From now on every change of a device is on record before anybody sees it."""
        keep_records(attached.guest.name, device, self._journal)

    async def keep(self, attached: Attached) -> None:
        """Put a guest and its devices on record as they are now.

        Raises:
            JournalError: They could not be.
        """
        if attached.fixed or attached.left_to_qemu:
            return
        name = attached.guest.name
        devices = [device_record(name, each) for each in attached.guest.devices]
        if attached.listed:
            await self._journal.put(*devices)
            return
        guest = GuestRecord(
            name=name,
            uuid=attached.uuid,
            machine=attached.guest.machine,
            origin=EXPECTED if attached.expected else ATTACHED,
        )
        await self._journal.put(guest, *devices)

    async def forget(self, name: str, designators: Iterable[Designator] = ()) -> None:
        """Take a guest off the record, or only some of its devices.

        Raises:
            JournalError: It could not be.
        """
        some: list[Key] = [(name, str(each)) for each in designators]
        await self._journal.forget(*(some or [name]))


def state_of(record: DeviceRecord) -> BlockState | None:
    """What was on record of a device; None where that makes no sense."""
    try:
        return msgspec.json.decode(record.body, type=BlockState)
    except (msgspec.DecodeError, ValueError) as error:
        log.error("what was on record of a device makes no sense", drive=record.drive, error=str(error))
        return None
