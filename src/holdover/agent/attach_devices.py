"""The devices of a guest whose disks come as descriptors: one for each LUN, over the disk of its QEMU."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from holdover.agent.attach_disk import Disk, DiskPath
from holdover.agent.attach_process import Process
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.rules import Rules
from holdover.agent.runner import run_steps
from holdover.agent.who import open_devices
from holdover.guest.gate import Gate
from holdover.guest.machine import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.handover.adopt import find_own_registration
from holdover.handover.steps import StepFailed
from holdover.paths.host_disks import HostDisks
from holdover.paths.path import PathError
from holdover.paths.sgio import SgIo
from holdover.scsi.inquiry import Designator

__all__ = ["Attached", "Busy", "DeviceMaker", "Refused"]

log = structlog.get_logger()


class Refused(Exception):
    """Why a command does not go anywhere; the message ends in what to do about it."""


class Busy(Exception):
    """A command cannot be carried out now; whoever sent it should try again."""


@dataclass(eq=False)
class Attached:
    """A guest that comes through the helper's socket.

    Attributes:
        guest: What the rest of the agent sees of it.
        machine: Its machine type, None where that is not one whose default of ``migrate-pr`` is known.
        gate: Where a device stands with its guest that is the guest's first.
        listed: Whether the agent's file names it.
        uuid: Its UUID in lower case, where it is known.
        expected: Whether the host that it comes from has announced it.
        left_to_qemu: Whether its QEMU moves its reservations itself.
        process: The QEMU that it runs in, while that runs.
        paths: The disks of its devices, by LUN; empty for devices of the agent's file.
        home: The guest with the devices that the agent's file gives it; None where the file gives it none.
        one_by_one: Held while devices are added or change their disk.
    """

    guest: HostedGuest
    machine: MachineType | None
    gate: Gate
    listed: bool = False
    uuid: str | None = None
    expected: bool = False
    left_to_qemu: bool = False
    process: Process | None = None
    paths: dict[Designator, DiskPath] = field(default_factory=dict)
    home: HostedGuest | None = None
    one_by_one: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def names(self) -> tuple[str, ...]:
        """What patterns of rules are matched with."""
        return (self.guest.name,) if self.uuid is None else (self.guest.name, self.uuid)

    @property
    def fixed(self) -> bool:
        """Whether its devices are those of the agent's file."""
        return self.guest is self.home

    @property
    def gate_now(self) -> Gate:
        """Where its devices stand with it."""
        return self.guest.devices[0].block.gate if self.guest.devices else self.gate

    def move_gate(self, gate: Gate) -> None:
        """Say where its devices, and those to come, stand with it."""
        self.gate = gate
        for device in self.guest.devices:
            device.move_gate(gate)

    def run(self) -> None:
        """It runs here; what it holds must be read before it is used."""
        for device in self.guest.devices:
            if device.block.migrate_pr:
                device.block.mark_stale()
        self.move_gate(Gate.RUNNING)

    def device(self, designator: Designator) -> GuestDevice | None:
        """Its device on a LUN."""
        return next((each for each in self.guest.devices if each.designator == designator), None)

    def append(self, designator: Designator, device: GuestDevice, path: DiskPath) -> None:
        """Give it a device on a LUN."""
        self.paths[designator] = path
        self.guest.devices.append(device)

    @property
    def settled(self) -> bool:
        """Whether nothing is known of it that must not be forgotten."""
        return self.guest.state().handover is None and not any(
            device.tracked.key or device.block.stale for device in self.guest.devices
        )

    def release(self) -> None:
        """Its process has gone: hold no disk open for it."""
        for path in self.paths.values():
            path.release()


class DeviceMaker:
    """Makes the devices of attached guests, and sees to it that each has the disk that its guest has."""

    def __init__(self, rules: Rules, disks: HostDisks, io: SgIo, limit: float) -> None:
        """``limit``: seconds that asking one LUN may take."""
        self._rules = rules
        self._disks = disks
        self._io = io
        self._limit = limit

    async def find(self, attached: Attached, descriptor: int) -> GuestDevice:
        """The guest's device on the LUN behind a descriptor, made now where this is the first of it.

        Raises:
            Refused: The guest has that LUN by another disk, or nothing says whether its reservations move.
            Busy: It is a new device while the guest moves.
            PathError: The LUN does not answer, or the disk cannot be opened.
        """
        designator = await self._disks.designator_of(descriptor, f"descriptor of guest {attached.guest.name}")
        disk = Disk.of(os.fstat(descriptor))
        path, device = attached.paths.get(designator), attached.device(designator)
        if path is not None and device is not None and path.holds(disk):
            return device
        async with attached.one_by_one:
            path, device = attached.paths.get(designator), attached.device(designator)
            if path is None or device is None:
                return await self._attach(attached, designator, disk, descriptor)
            if path.disk != disk:
                await self._check_move(attached, designator, device, path.disk, disk)
            await path.hold(descriptor)
            device.name = path.name
            return device

    async def _attach(
        self, attached: Attached, designator: Designator, disk: Disk, descriptor: int
    ) -> GuestDevice:
        if attached.guest.state().handover is not None:
            # what it would register now, the handover would not take along
            raise Busy(f"LUN {designator} is new to guest {attached.guest.name}, which is being handed over")
        migrate_pr = self._migrate_pr(attached, designator)
        path = DiskPath(disk, designator, self._disks, self._io)
        await path.hold(descriptor)
        device = await self.make(attached, designator, path, migrate_pr, attached.gate_now)
        attached.append(designator, device, path)
        log.info(
            "a guest's disk",
            guest=attached.guest.name,
            lun=str(designator),
            disk=path.name,
            migrate_pr=device.block.migrate_pr,
        )
        if device.block.gate is Gate.RUNNING:
            # it may have registered before this agent knew of it
            await self._read(device)
        return device

    async def let_run(self, attached: Attached) -> None:
        """A guest runs here though nobody handed it over: read what it holds before that is used."""
        attached.run()
        await asyncio.gather(*(self._read(device) for device in attached.guest.devices))

    async def _read(self, device: GuestDevice) -> None:
        if not device.block.migrate_pr:
            return
        try:
            await device.reread(self._limit)
        except (PathError, StepFailed) as error:
            device.block.mark_stale()
            log.warning("what a guest holds could not be read", disk=device.name, error=str(error))

    async def make(
        self, attached: Attached, designator: Designator, path: DiskPath, migrate_pr: bool | None, gate: Gate
    ) -> GuestDevice:
        """A device for a guest, which does not have it yet; ``migrate_pr`` None: as the machine type says.

        Raises:
            PathError: The LUN does not answer, or is another one.
        """
        machine = attached.machine or MachineType("unknown", None)
        options = DeviceOptions(id=None, drive=path.name, migrate_pr=migrate_pr)
        device = GuestDevice(ScsiBlock(options, machine, gate), path.name, lambda _: path)
        device.adopt = self._rules.adopt(attached.names, designator)
        try:
            found = await device.learn_designator(self._limit)
            if found != designator:
                raise PathError(path.name, f"is LUN {found} now, and was {designator}")
        except StepFailed as error:
            await device.close()
            raise PathError(path.name, str(error)) from error
        except BaseException:
            await device.close()
            raise
        return device

    def _migrate_pr(self, attached: Attached, designator: Designator) -> bool | None:
        if attached.left_to_qemu:
            return False
        said = self._rules.migrate_pr(attached.names, designator)
        if said is None and attached.machine is None:
            raise Refused(
                f"guest {attached.guest.name}: whether its machine type has migrate-pr on is not known; "
                f'say it in the agent\'s file: [[rule]] guest = "{attached.guest.name}" migrate-pr = "on"'
            )
        return said

    def expected(self, names: Sequence[str], designator: Designator, theirs: bool) -> bool:
        """``migrate-pr`` of a guest that is to arrive: as this host's rules say, else as it has been."""
        said = self._rules.migrate_pr(names, designator)
        return theirs if said is None else said

    async def _check_move(
        self, attached: Attached, designator: Designator, device: GuestDevice, before: Disk, now: Disk
    ) -> None:
        """Two disks of a host may be one LUN through two nexuses: a registration is on one of them."""
        name = attached.guest.name
        if attached.process is not None:
            opened = await asyncio.to_thread(open_devices, attached.process.pid)
            if (before.kind, before.number) in opened:
                raise Refused(
                    f"guest {name} has LUN {designator} twice, as {before} and as {now}; "
                    "give it one of them, or a multipath device"
                )
        address = before.address()
        if address is not None and address == now.address():
            return
        if device.tracked.key == 0 and not device.block.stale:
            return
        if not await self._is_registered(now, designator, device):
            raise Refused(
                f"guest {name} registered on LUN {designator} as {before}, and has it now as {now}, which is "
                f"another I_T nexus; start it with {before}, or remove its key with holdover pr"
            )

    async def _is_registered(self, disk: Disk, designator: Designator, device: GuestDevice) -> bool:
        path = DiskPath(disk, designator, self._disks, self._io)
        tracked = device.tracked
        steps = find_own_registration(
            (tracked.key, *device.block.candidates),
            aptpl=tracked.aptpl,
            nexus=None,
            nexuses=device.nexuses,
        )
        try:
            found = await run_steps(path, steps, self._limit)
        except StepFailed as error:
            raise PathError(path.name, str(error)) from error
        finally:
            await path.close()
        return found.certain and found.tracked.key == tracked.key

    async def path(self, designator: Designator, process: Process | None) -> DiskPath:
        """A path to a LUN: by the disk that the guest's process has open, else by the only one of this host.

        Raises:
            Refused: The host has no such LUN, or has it by several disks and nothing says which it will be.
            PathError: A disk that may be the one does not answer.
        """
        files = await self._disks.find(designator)
        disks = {Disk.of(await asyncio.to_thread(file.stat)): file for file in files}
        if not disks:
            raise Refused(
                f"this host has no disk of LUN {designator}; connect the LUN to it "
                "(holdover pr status /dev/sdX shows the designator of a disk)"
            )
        if len(disks) > 1 and process is not None:
            opened = await asyncio.to_thread(open_devices, process.pid)
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


def _listed(files: Sequence[Path]) -> str:
    return " and ".join(sorted(str(file) for file in files))
