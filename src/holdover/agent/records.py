"""What of a guest's devices is in the journal, and how it comes back from there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec
import structlog

from holdover.agent.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState, Tracked
from holdover.journal.journal import JournalLike
from holdover.journal.records import DeviceRecord
from holdover.paths.path import PathError

__all__ = ["Remembered", "device_record", "keep_records"]

log = structlog.get_logger()


def device_record(guest: str, device: GuestDevice, gate: Gate | None = None) -> DeviceRecord:
    """The record of a device whose LUN has told its designator; ``gate``: where it is about to be, None: as
    it is."""
    state = device.block.state()
    if gate is not None:
        state = replace(state, gate=gate)
    return DeviceRecord(
        guest=guest,
        designator=str(device.designator),
        drive=device.name,
        body=msgspec.json.encode(state),
    )


def keep_records(guest: str, device: GuestDevice, journal: JournalLike) -> None:
    """From now on every change of what ``device`` knows is on record before anybody sees it."""

    async def record(changed: GuestDevice) -> None:
        if changed.designator is None:
            raise PathError(changed.name, "which LUN this is could not be asked yet")
        await journal.put(device_record(guest, changed))

    device.on_change = record


class Remembered:
    """What is on record of the devices of one guest, before it is known which LUN is behind which drive."""

    def __init__(self, records: Iterable[DeviceRecord]) -> None:
        self._by_lun = {record.designator: record for record in records}
        self._by_drive = {record.drive: record for record in self._by_lun.values()}

    def restore(self, device: GuestDevice) -> None:
        """Give a device back what was on record of its LUN or, while that is not known, of its drive."""
        if device.designator is None:
            self._give(device, self._by_drive.get(device.name))
        else:
            self._give(device, self._by_lun.get(str(device.designator)))

    def identified(self, device: GuestDevice) -> bool:
        """The LUN has told its designator: if it is not the one that was at this drive, the device gets what
        is on record of the one that it is. Whether anything was on record of it."""
        before, now = self._by_drive.get(device.name), self._by_lun.get(str(device.designator))
        if before is now:
            return now is not None
        log.warning(
            "another LUN than before",
            device=device.name,
            lun=str(device.designator),
            before=before.designator if before is not None else "none",
        )
        block = device.block
        block.restore(BlockState(block.migrate_pr, block.gate, Tracked(), stale=True))
        self._give(device, now, block.gate)
        return now is not None

    def _give(self, device: GuestDevice, record: DeviceRecord | None, gate: Gate | None = None) -> None:
        if record is None:
            return
        try:
            state = msgspec.json.decode(record.body, type=BlockState)
        except (msgspec.DecodeError, ValueError) as error:
            log.error("what was on record of a device makes no sense", device=device.name, error=str(error))
            device.block.mark_stale()
            return
        device.block.restore(state if gate is None else replace(state, gate=gate))
