"""Programs that use a guest's disks as the guest, and that nobody stops when the guest stops.

A backup program at the guest's export, or a tool at the socket of the helper. So commands are in flight when
a gate shuts, wait at the gate, and come to a host that the guest has left.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from holdover.scsi.cdbs.cdb import Read, TestUnitReady, Write
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_out import in_command, out_command
from tests.simulation.exports import SESSIONS
from tests.simulation.guests import Vm

_EVERY = 0.2
"""The mean seconds between two of their commands."""

_COMMANDS = (
    Command(Write(1, 1, 10).encode(), bytes(512)),
    Command(Read(1, 1, 10).encode(), data_in_length=512),
    Command(Read(0, 1, 10).encode(), data_in_length=512),
    Command(TestUnitReady().encode()),
    in_command(InServiceAction.READ_KEYS),
    in_command(InServiceAction.READ_RESERVATION),
)


@dataclass(eq=False)
class Bystander:
    """One such program; ``place``: where the guest ran last, ``left``: where it ran before that."""

    vm: Vm
    place: str = ""
    left: str = ""

    async def work(self) -> None:
        """Send commands for ever, some at the same time."""
        vm = self.vm
        while True:
            await asyncio.sleep(vm.random.expovariate(1 / _EVERY))
            if vm.place is not None and vm.place != self.place:
                self.place, self.left = vm.place, self.place
            if self.place and not vm.calm:
                vm.world.create_task(self._act())

    async def _act(self) -> None:
        vm = self.vm
        place = self.left if self.left and vm.random.random() < 0.1 else self.place
        number = vm.random.randrange(len(vm.placements))
        command = self._change(number) if vm.random.random() < 0.02 else vm.random.choice(_COMMANDS)
        own = Command(command.cdb, command.data_out, command.data_in_length)
        vm.issued[id(own)] = own
        try:
            await vm.machines[place].execute(vm.world, vm.name, number, own, len(SESSIONS) - 1)
        except ConnectionError:
            return

    def _change(self, number: int) -> Command:
        """Another key for the guest; it does not register a guest that is not registered."""
        vm, placement = self.vm, self.vm.placements[number]
        key = vm.ledgers[placement.lun.name].truth(vm.name).key if placement.moved else 0
        return out_command(
            OutServiceAction.REGISTER, key, vm.random.choice(vm.keys) if key else 0, aptpl=True
        )
