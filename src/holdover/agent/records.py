"""What of a guest's devices is in the journal, and how it comes back from there."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import structlog

from holdover.agent.device import GuestDevice
from holdover.guest.scsi_block import BlockState
from holdover.journal.journal import JournalLike
from holdover.journal.records import DeviceRecord

__all__ = ["device_record", "keep_records", "restore_devices"]

log = structlog.get_logger()


def device_record(guest: str, device: GuestDevice) -> DeviceRecord:
    """The record of a device; one whose LUN has not told its designator yet is kept by its drive."""
    return DeviceRecord(
        guest=guest,
        designator=str(device.designator or device.name),
        drive=device.name,
        body=msgspec.json.encode(device.block.state()),
    )


def keep_records(guest: str, device: GuestDevice, journal: JournalLike) -> None:
    """From now on every change of what ``device`` knows is on record before anybody sees it."""

    async def record(changed: GuestDevice) -> None:
        await journal.put(device_record(guest, changed))

    device.on_change = record


def restore_devices(devices: Iterable[GuestDevice], records: Iterable[DeviceRecord]) -> None:
    """Give devices back what was on record of them, known by designator or, before that is known, by drive.

    Where the LUN at a drive is another than it was, nothing is given back: `GuestDevice.designator` and the
    record's are compared whenever both are known.
    """
    by_lun = {record.designator: record for record in records}
    by_drive = {record.drive: record for record in by_lun.values()}
    for device in devices:
        record = by_lun.get(str(device.designator)) if device.designator else by_drive.get(device.name)
        if record is None:
            continue
        try:
            state = msgspec.json.decode(record.body, type=BlockState)
        except (msgspec.DecodeError, ValueError) as error:
            log.error("what was on record of a device makes no sense", device=device.name, error=str(error))
            device.block.mark_stale()
            continue
        device.block.restore(state)
