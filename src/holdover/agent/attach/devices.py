"""The devices of a guest whose disks come as descriptors: one for each LUN, over the disk of its QEMU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog

from holdover.agent.attach.attached_guest import Attached, Busy, Refused
from holdover.agent.attach.disks.disk import Disk, DiskPath, name_of
from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.attach.processes.process import Process
from holdover.agent.attach.records import Keeper, state_of
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.step_runner import run_steps
from holdover.config.rules import Rules
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.history.history import NO_HISTORY, History
from holdover.journal.journal import JournalError
from holdover.journal.records import DeviceRecord
from holdover.metrics.measurements import Measurements
from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice, SgIo
from holdover.reservations.own_registration import find_own_registration
from holdover.reservations.steps import StepFailed
from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Designator
from holdover.scsi.path import PathError

log = structlog.get_logger()


class DeviceMaker:
    """The maker of attached guests' devices; it also keeps each device on the disk that its guest has.

    Attributes:
        rules: What the agent's file says of guests and LUNs; the rules may change while the agent runs.
    """

    def __init__(
        self,
        rules: Rules,
        disks: HostDisks,
        io: SgIo,
        keeper: Keeper,
        limit: float,
        in_handover: Callable[[str], bool],
        open_disks: OpenDisks,
        measurements: Measurements | None = None,
        history: History = NO_HISTORY,
    ) -> None:
        """``limit`` is how many seconds it may take to ask one LUN.

        ``in_handover`` returns whether a guest is being handed over.
        """
        self._keeper = keeper
        self._in_handover = in_handover
        self._open_disks = open_disks
        self._measurements = measurements or Measurements()
        self._history = history
        self.rules = rules
        self._disks = disks
        self._io = io
        self.limit = limit

    async def find(self, attached: Attached, opened: OpenDevice) -> GuestDevice:
        """The guest's device on the LUN behind a descriptor, made now if the LUN is new to the guest.

        Raises:
            Refused: The guest has that LUN by another disk, or it is not known whether its reservations move.
            Busy: The device is new, and the guest is being handed over.
            PathError: The LUN does not answer, or the disk cannot be opened.
        """
        designator = await self._disks.designator_of(opened, f"descriptor of guest {attached.guest.name}")
        disk = Disk.of(opened.found)
        found = attached.disks.get(designator)
        if found is not None and found[1].holds(opened):
            return found[0]
        async with attached.one_by_one:
            if designator not in attached.disks:
                return await self._attach(attached, designator, disk, opened)
            device, path = attached.disks[designator]
            if path.disk is not None and path.disk != disk:
                await self._check_move(attached, designator, device, path.disk, disk)
            could_write = path.writable
            await path.hold(opened)
            device.name = path.name
            doubtful = device.block.stale or not could_write
            if doubtful and path.writable and device.block.gate is Gate.RUNNING:
                await self._read(device)
            return device

    async def _attach(
        self, attached: Attached, designator: Designator, disk: Disk, opened: OpenDevice
    ) -> GuestDevice:
        self._refuse_in_handover(attached, designator)
        migrate_pr = self._migrate_pr(attached, designator)
        path = DiskPath(disk, designator, self._disks, self._io, access=opened.access)
        await path.hold(opened)
        device = await self.make(attached, designator, path, migrate_pr, attached.gate_now)
        try:
            if path.writable and device.block.gate is Gate.RUNNING:
                # The guest may have registered before this agent knew of it.
                await self._read(device)
            self._refuse_in_handover(attached, designator)
        except BaseException:
            await device.close()
            raise
        attached.append(designator, device, path)
        try:
            await self._keeper.keep(attached)
        except JournalError as error:
            await attached.remove(designator).close()
            raise PathError(
                path.name, f"guest {attached.guest.name} cannot be put on record: {error}"
            ) from error
        log.info(
            "A guest has a disk on this host.",
            guest=attached.guest.name,
            lun=str(designator),
            disk=path.name,
            migrate_pr=device.block.migrate_pr,
        )
        for warning in attached.guest.warnings:
            log.warning("The agent warns its operator.", guest=attached.guest.name, reason=warning)
        return device

    def _refuse_in_handover(self, attached: Attached, designator: Designator) -> None:
        """Raise `Busy` during a handover: it would leave behind what the guest registers on a new LUN."""
        if self._in_handover(attached.guest.name):
            raise Busy(f"LUN {designator} is new to guest {attached.guest.name}, which is being handed over")

    async def read_and_note(self, attached: Attached) -> None:
        """A guest runs here though nobody handed it over: read what it holds, and put it on record."""
        await asyncio.gather(*(self._read(device) for device in attached.guest.devices))
        await self.note(attached)

    async def look_again(self, attached: Attached) -> None:
        """Read what a guest that runs here has now, on the LUNs where that is in doubt."""
        doubtful = [each for each in attached.guest.devices if each.block.stale]
        await asyncio.gather(*(self._read(each) for each in doubtful if each.block.gate is Gate.RUNNING))

    async def note(self, attached: Attached) -> None:
        """Put a guest on record as it is now; if that fails, log it."""
        try:
            await self._keeper.keep(attached)
        except JournalError as error:
            log.error("A guest could not be put on record.", guest=attached.guest.name, reason=str(error))

    async def forget(self, name: str, luns: Sequence[Designator] = ()) -> None:
        """Take a guest, or only some of its devices, off the record; if that fails, log it."""
        try:
            await self._keeper.forget(name, luns)
        except JournalError as error:
            log.error("A guest could not be taken off the record.", guest=name, reason=str(error))

    async def _read(self, device: GuestDevice) -> None:
        if not device.block.migrate_pr:
            return
        try:
            await device.reread(self.limit)
        except (PathError, StepFailed) as error:
            device.block.mark_stale()
            log.warning(
                "The agent could not read from the LUN what a guest holds.",
                guest=device.guest,
                lun=device.lun_name,
                reason=str(error),
            )

    async def make(
        self, attached: Attached, designator: Designator, path: DiskPath, migrate_pr: bool | None, gate: Gate
    ) -> GuestDevice:
        """A new device for a guest; if ``migrate_pr`` is None, the machine type decides.

        Raises:
            PathError: The LUN does not answer, or is another one.
        """
        device = self._device(attached, path, migrate_pr, gate)
        device.adopt = self.rules.adopt(attached.names, designator)
        try:
            found = await device.learn_designator(self.limit)
            if found != designator:
                raise PathError(path.name, f"is LUN {found} now, and was {designator}")
        except StepFailed as error:
            await device.close()
            raise PathError(path.name, str(error)) from error
        except BaseException:
            await device.close()
            raise
        return device

    def _device(self, attached: Attached, path: DiskPath, migrate_pr: bool | None, gate: Gate) -> GuestDevice:
        machine_type = attached.machine_type or MachineType("unknown", None, known=False)
        options = DeviceOptions(id=None, drive=path.name, migrate_pr=migrate_pr)
        device = GuestDevice(
            ScsiBlock(options, machine_type, gate),
            path.name,
            lambda _: path,
            self._measurements,
            attached.guest.name,
            self._history,
        )
        if not attached.left_to_qemu:
            self._keeper.watch(attached, device, path)
        return device

    def restore(self, attached: Attached, record: DeviceRecord) -> None:
        """Give a guest a device that is on record; its LUN is asked only when there is something to do."""
        try:
            designator = Designator.parse(record.designator)
        except DecodeError:
            log.error(
                "The journal has a device without a designator.", guest=record.guest, drive=record.drive
            )
            return
        path = DiskPath(_disk_at(Path(record.drive)), designator, self._disks, self._io, certain=False)
        state = state_of(record)
        said = self.rules.migrate_pr(attached.names, designator)
        known = None if state is None else state.migrate_pr
        device = self._device(attached, path, known if said is None else said, attached.gate)
        device.adopt = self.rules.adopt(attached.names, designator)
        device.recall_designator(designator)
        if state is not None:
            device.block.restore(state)
        if device.block.migrate_pr and device.block.gate is Gate.RUNNING:
            # While no agent ran, others may have changed it.
            device.block.mark_stale()
        attached.append(designator, device, path)

    def _migrate_pr(self, attached: Attached, designator: Designator) -> bool | None:
        if attached.left_to_qemu:
            return False
        said = self.rules.migrate_pr(attached.names, designator)
        if said is None and attached.machine_type is None:
            raise Refused(
                f"guest {attached.guest.name}: whether its machine type has migrate-pr on is not known; "
                f'say it in the agent\'s file: [[rule]] guest = "{attached.guest.name}" migrate-pr = "on"'
            )
        return said

    def expected(self, names: Sequence[str], designator: Designator, theirs: bool) -> bool:
        """``migrate-pr`` of a guest that is going to arrive: by this host's rules, or else as on its
        source.
        """
        said = self.rules.migrate_pr(names, designator)
        return theirs if said is None else said

    async def _check_move(
        self, attached: Attached, designator: Designator, device: GuestDevice, before: Disk, now: Disk
    ) -> None:
        """Refuse a disk that reaches the LUN through another nexus: the registration is on one nexus only."""
        name = attached.guest.name
        if attached.process is not None:
            opened = await self._open_disks.of(attached.process.pid)
            if (before.kind, before.number) in opened:
                raise Refused(
                    f"guest {name} has LUN {designator} twice, as {name_of(before)} and as {name_of(now)}; "
                    "give it one of them, or a multipath device"
                )
        address = before.address()
        if address is not None and address == now.address():
            return
        if device.tracked.key == 0 and not device.block.stale:
            return
        if not await self._is_registered(now, designator, device):
            raise Refused(
                f"guest {name} registered on LUN {designator} as {name_of(before)}, and has it now as "
                f"{name_of(now)}, which is another I_T nexus; start it with {name_of(before)}, or remove its "
                "key with holdover pr"
            )

    async def _is_registered(self, disk: Disk, designator: Designator, device: GuestDevice) -> bool:
        path = DiskPath(disk, designator, self._disks, self._io)
        keys = (device.tracked.key, *device.block.candidates)
        steps = find_own_registration(keys, aptpl=device.tracked.aptpl, nexus=None)
        try:
            found = await run_steps(path, steps, self.limit)
        except StepFailed as error:
            raise PathError(path.name, str(error)) from error
        finally:
            await path.close()
        return found.certain and found.tracked.key != 0 and found.tracked.key in keys

    async def has_open(self, pid: int, luns: Iterable[Designator]) -> bool:
        """Whether a process has the disk of one of these LUNs open."""
        opened = await self._open_disks.of(pid)
        for lun in luns if opened else ():
            try:
                files = await self._disks.find(lun)
                disks = [Disk.of(await asyncio.to_thread(file.stat)) for file in files]
            except (OSError, PathError):
                continue  # a disk that does not answer proves nothing
            if any((disk.kind, disk.number) in opened for disk in disks):
                return True
        return False

    async def elsewhere(self, attached: Attached) -> set[Designator]:
        """The LUNs of a guest whose earlier disks its process does not have open."""
        if attached.process is None:
            return set()
        opened = await self._open_disks.of(attached.process.pid)
        disks = ((lun, path.disk) for lun, (_, path) in attached.disks.items())
        return {lun for lun, disk in disks if disk is not None and (disk.kind, disk.number) not in opened}

    async def path(self, designator: Designator, process: Process | None) -> DiskPath:
        """A path to a LUN: by the disk that the guest's process has open, or else by the host's only disk of
        it.

        Raises:
            Refused: The host has no such LUN, or has it by several disks and it is not known which one to
                use.
            PathError: A disk that may be the right one does not answer.
        """
        files = await self._disks.find(designator)
        disks = {Disk.of(await asyncio.to_thread(file.stat)): file for file in files}
        if not disks:
            raise Refused(
                f"this host has no disk of LUN {designator}; connect the LUN to it, "
                "and look whether its disk appears in /dev/disk/by-id"
            )
        if len(disks) > 1 and process is not None:
            opened = await self._open_disks.of(process.pid)
            disks = {
                disk: file for disk, file in disks.items() if (disk.kind, disk.number) in opened
            } or disks
        if len(disks) > 1:
            raise Refused(
                f"this host has LUN {designator} as {_listed(list(disks.values()))}, each an I_T nexus of "
                "its own; start the guest's QEMU on this host first, or name the guest with drive= in the "
                "agent's file"
            )
        return DiskPath(next(iter(disks)), designator, self._disks, self._io)


def _disk_at(node: Path) -> Disk | None:
    try:
        found = node.stat()
    except OSError:
        return None
    return Disk.of(found) if found.st_rdev else None


def _listed(files: Sequence[Path]) -> str:
    return " and ".join(sorted(str(file) for file in files))
