"""A guest that comes through the helper's socket, as the helper front end knows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from holdover.agent.attach.disks.disk import DiskPath
from holdover.agent.attach.processes.process import Process
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.guest.gate import Gate
from holdover.guest.identity_policy import ProcessIdentity
from holdover.guest.machine_type import MachineType
from holdover.scsi.inquiry import Designator


class Refused(Exception):
    """A command is refused; the message ends with what to do about it."""


class Busy(Exception):
    """A command cannot be carried out now; the client should try again."""


@dataclass(eq=False)
class Attached:
    """A guest that comes through the helper's socket.

    Attributes:
        guest: The guest as the rest of the agent sees it.
        machine_type: The machine type; None if its default of ``migrate-pr`` is not known.
        gate: The gate of the first device of the guest, while the guest has no devices.
        listed: Whether the agent's file names the guest.
        uuid: The guest's UUID in lower case, if it is known.
        expected: Whether the agent's file, or the source's host, has announced the guest's arrival.
        left_to_qemu: Whether the guest's QEMU moves its reservations itself.
        process: The QEMU process of the guest, while it runs.
        recorded: The identity of the guest's process when it last showed one of the guest's disks.
        kept: The guest and its disks from before its reservations were left to its QEMU.
        disks: The guest's devices by LUN, each with its QEMU's disk; empty for devices of the agent's file.
        home: The guest with the devices from the agent's file; None if the file gives it none.
        one_by_one: The lock to hold while devices are added or change their disk.
    """

    guest: HostedGuest
    machine_type: MachineType | None
    gate: Gate
    listed: bool = False
    uuid: str | None = None
    expected: bool = False
    left_to_qemu: bool = False
    process: Process | None = None
    recorded: ProcessIdentity | None = None
    kept: tuple[HostedGuest, dict[Designator, tuple[GuestDevice, DiskPath]]] | None = None
    disks: dict[Designator, tuple[GuestDevice, DiskPath]] = field(default_factory=dict)
    home: HostedGuest | None = None
    one_by_one: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the patterns of rules are compared with."""
        return (self.guest.name,) if self.uuid is None else (self.guest.name, self.uuid)

    @property
    def fixed(self) -> bool:
        """Whether the guest's devices are those of the agent's file."""
        return self.guest is self.home

    @property
    def gate_now(self) -> Gate:
        """The gate of the guest's devices now."""
        return self.guest.devices[0].block.gate if self.guest.devices else self.gate

    def move_gate(self, gate: Gate) -> None:
        """Set the gate of the guest's devices, and of later ones."""
        self.gate = gate
        for device in self.guest.devices:
            device.move_gate(gate)

    def run(self) -> None:
        """The guest runs here: open its gates, and mark its tracked state stale, to be read before use."""
        for device in self.guest.devices:
            if device.block.migrate_pr:
                device.block.mark_stale()
        self.move_gate(Gate.RUNNING)

    def append(self, designator: Designator, device: GuestDevice, path: DiskPath) -> None:
        """Give the guest a device on a LUN."""
        self.disks[designator] = device, path
        self.guest.devices.append(device)

    def remove(self, designator: Designator) -> GuestDevice:
        """Take a device away from the guest."""
        device, _ = self.disks.pop(designator)
        self.guest.devices.remove(device)
        return device

    @property
    def settled(self) -> bool:
        """Whether the guest has a process that is known to be the guest by more than what it says."""
        return self.process is not None and self.process.settled

    @property
    def luns(self) -> frozenset[Designator]:
        """The LUNs that the guest is known to have."""
        return frozenset(each.designator for each in self.guest.devices if each.designator is not None)

    @property
    def holds(self) -> bool:
        """Whether the guest holds something on a LUN, or may."""
        return any(device.tracked.key or device.block.stale for device in self.guest.devices)

    def release(self) -> None:
        """The guest's process has gone: keep no disk open for the guest."""
        for _, path in self.disks.values():
            path.release()
