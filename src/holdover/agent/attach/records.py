"""The journal's records of guests that no file names, and of devices that came as descriptors."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import structlog

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.attach.disks.disk import DiskPath
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.records import device_record, keep_records
from holdover.guest.identity_policy import ProcessIdentity
from holdover.guest.scsi_block import BlockState
from holdover.journal.journal import JournalLike
from holdover.journal.records import DeviceRecord, GuestRecord, Key
from holdover.scsi.inquiry import Designator

log = structlog.get_logger()

CONFIGURED, ATTACHED, EXPECTED = "configured", "attached", "expected"
"""Where a guest comes from: the agent's file, a process, or another host's announcement."""


class Keeper:
    """The keeper of attached guests in a journal."""

    def __init__(self, journal: JournalLike) -> None:
        self._journal = journal

    def watch(self, attached: Attached, device: GuestDevice, path: DiskPath) -> None:
        """Put every change of a device on record from now on, before anybody sees it.

        A disk that its guest may only read is not recorded: the guest holds nothing on it, and the agent
        opens disks that are on record for writing.
        """
        keep_records(attached.guest.name, device, self._journal, when=lambda: path.writable)

    async def keep(self, attached: Attached) -> None:
        """Put a guest and its devices on record as they are now.

        Raises:
            JournalError: The journal refused to write.
        """
        if attached.left_to_qemu:
            return
        name = attached.guest.name
        recorded = attached.recorded
        guest = GuestRecord(
            name=name,
            uuid=attached.uuid,
            machine_type=attached.guest.machine_type,
            origin=CONFIGURED if attached.listed else EXPECTED if attached.expected else ATTACHED,
            process="" if recorded is None else msgspec.json.encode(recorded).decode(),
        )
        read_only = {id(device) for device, path in attached.disks.values() if not path.writable}
        devices = [] if attached.fixed else attached.guest.devices
        await self._journal.put(
            guest, *(device_record(name, each) for each in devices if id(each) not in read_only)
        )

    async def forget(self, name: str, designators: Iterable[Designator] = ()) -> None:
        """Take a guest off the record, or only some of its devices.

        Raises:
            JournalError: The journal refused to write.
        """
        some: list[Key] = [(name, str(each)) for each in designators]
        await self._journal.forget(*(some or [name]))


def state_of(record: DeviceRecord) -> BlockState | None:
    """The state of a device from its record; None if the record cannot be read."""
    try:
        return msgspec.json.decode(record.body, type=BlockState)
    except (msgspec.DecodeError, ValueError) as error:
        log.error("The record of a device cannot be read.", drive=record.drive, reason=str(error))
        return None


def process_of(record: GuestRecord) -> ProcessIdentity | None:
    """The identity of a guest's process from the guest's record; None if it is not on record."""
    if not record.process:
        return None
    try:
        return msgspec.json.decode(record.process, type=ProcessIdentity)
    except msgspec.DecodeError as error:
        log.error("The record of a guest's process cannot be read.", guest=record.name, reason=str(error))
        return None


def may_hold(record: DeviceRecord) -> bool:
    """Whether a guest has something on a LUN by this record, or may have."""
    state = state_of(record)
    return state is None or bool(state.tracked.key) or state.stale
