"""The journal's records of a guest's devices, and how devices get their state back from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import replace

import msgspec
import structlog

from holdover.agent.guests.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState
from holdover.journal.journal import JournalLike
from holdover.journal.records import DeviceRecord
from holdover.reservations.tracked import Tracked
from holdover.scsi.path import PathError

log = structlog.get_logger()


def device_record(guest: str, device: GuestDevice) -> DeviceRecord:
    """The record of a device whose LUN is known, or was known when its agent ran before.

    It has the gate that the device is about to have, if that is already on its way to the disk.
    """
    state = device.block.state()
    if device.coming_gate is not None:
        state = replace(state, gate=device.coming_gate)
    return DeviceRecord(
        guest=guest,
        designator=device.lun_of_record,
        drive=device.name,
        body=msgspec.json.encode(state),
    )


def keep_records(
    guest: str, device: GuestDevice, journal: JournalLike, when: Callable[[], bool] = lambda: True
) -> None:
    """From now on put every change of ``device`` on record before anybody sees it, if ``when`` returns
    True."""

    async def record(changed: GuestDevice) -> None:
        if not when():
            return
        if changed.designator is None:
            raise PathError(changed.name, "which LUN this is could not be asked yet")
        await journal.put(device_record(guest, changed))

    device.on_change = record


class Remembered:
    """The records of one guest's devices, for the time in which it is not known which LUN each drive is."""

    def __init__(self, records: Iterable[DeviceRecord]) -> None:
        self._by_lun = {record.designator: record for record in records}
        self._by_drive = {record.drive: record for record in self._by_lun.values()}

    def restore(self, device: GuestDevice) -> None:
        """Give a device its state from the record of its LUN or, while the LUN is not known, of its drive."""
        if device.designator is None:
            self._give(device, self._by_drive.get(device.name))
        else:
            self._give(device, self._by_lun.get(str(device.designator)))

    def identified(self, device: GuestDevice) -> bool:
        """Whether there was a record of the LUN, which has now told its designator.

        If another LUN was at this drive before, the device gets the state from the record of the LUN that is
        there now.
        """
        before, now = self._by_drive.get(device.name), self._by_lun.get(str(device.designator))
        if before is now:
            return now is not None
        log.warning(
            "A drive leads to another LUN than before.",
            guest=device.guest,
            drive=device.name,
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
        device.recorded_as = record.designator
        try:
            state = msgspec.json.decode(record.body, type=BlockState)
        except (msgspec.DecodeError, ValueError) as error:
            log.error(
                "The record of a device cannot be read; the agent asks the LUN instead.",
                guest=device.guest,
                lun=device.lun_name,
                reason=str(error),
            )
            device.block.mark_stale()
            return
        device.block.restore(state if gate is None else replace(state, gate=gate))


def remembered_by_guest(records: Iterable[DeviceRecord], guests: Container[str]) -> dict[str, Remembered]:
    """The records of the devices of ``guests``, by guest."""
    of_guest: defaultdict[str, list[DeviceRecord]] = defaultdict(list)
    for record in records:
        if record.guest in guests:
            of_guest[record.guest].append(record)
    return {guest: Remembered(each) for guest, each in of_guest.items()}
