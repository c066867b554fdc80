"""A guest that comes through the helper's socket, as the agent's door knows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from holdover.agent.attach_disk import DiskPath
from holdover.agent.attach_process import Process
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.guest.gate import Gate
from holdover.guest.machine import MachineType
from holdover.scsi.inquiry import Designator

__all__ = ["Attached", "Busy", "Refused"]


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
        expected: Whether the agent's file, or the host that it comes from, has announced its arrival.
        left_to_qemu: Whether its QEMU moves its reservations itself.
        process: The QEMU that it runs in, while that runs.
        disks: Its devices by LUN, each with the disk of its QEMU; empty for devices of the agent's file.
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
    disks: dict[Designator, tuple[GuestDevice, DiskPath]] = field(default_factory=dict)
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

    def append(self, designator: Designator, device: GuestDevice, path: DiskPath) -> None:
        """Give it a device on a LUN."""
        self.disks[designator] = device, path
        self.guest.devices.append(device)

    def remove(self, designator: Designator) -> GuestDevice:
        """Take a device away from it."""
        device, _ = self.disks.pop(designator)
        self.guest.devices.remove(device)
        return device

    @property
    def holds(self) -> bool:
        """Whether it holds something on a LUN, or may."""
        return any(device.tracked.key or device.block.stale for device in self.guest.devices)

    def release(self) -> None:
        """Its process has gone: hold no disk open for it."""
        for _, path in self.disks.values():
            path.release()
