"""A guest's device over a logical unit in memory, on a path that a test can hold up and break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import structs

from holdover.agent.guests.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import BlockState, ScsiBlock
from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.logical_unit import LogicalUnit
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import is_unit_attention
from tests.lun.support import MemoryMedium


def nexus(name: str) -> ITNexus:
    return ITNexus(IscsiTransportID(f"iqn.2026-11.org.example:{name}", b"\x80\0\0\0\0\1"))


GUEST, THIRD, QEMU = map(nexus, ("host-a", "third", "qemu"))


@dataclass
class ScriptedPath:
    """A path to a logical unit; what is in `script` happens to the next commands, one each."""

    unit: LogicalUnit
    script: list[Exception | Response | asyncio.Event | None] = field(default_factory=list)
    """An error: raised, an `AnswerLost` after the command was carried out. A response: in place of the
    logical unit's. An event: the command is carried out when it is set. None: nothing happens."""
    seen: list[Command] = field(default_factory=list)
    after: Callable[[], None] = lambda: None
    name: str = "memory"
    nexuses: int = 1
    carried: tuple[str, ...] = ()
    """The initiator ports that a PERSISTENT RESERVE OUT goes by, where they are several."""
    closed: bool = False

    async def execute(self, command: Command) -> Response:
        self.seen.append(command)
        await asyncio.sleep(0)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Response):
            return step
        if isinstance(step, PathError) and not isinstance(step, AnswerLost):
            raise step
        if isinstance(step, asyncio.Event):
            await step.wait()
        response = self.unit.execute(GUEST, command)
        if self.carried and command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            response = structs.replace(response, carried=self.carried)
        self.after()
        if isinstance(step, Exception):
            raise step
        return response

    async def close(self) -> None:
        self.closed = True

    def outs(self) -> list[Command]:
        """The PERSISTENT RESERVE OUT that were sent."""
        return [each for each in self.seen if each.opcode == OperationCode.PERSISTENT_RESERVE_OUT]


class Rig:
    """The device, its path, and what it put on record."""

    def __init__(self, *, migrate_pr: bool = True, gate: Gate = Gate.RUNNING) -> None:
        self.unit = LogicalUnit(MemoryMedium(), UnitIdentity("device"), greet=False)
        self.path = self.make_path()
        block = ScsiBlock(DeviceOptions("disk0", "memory", migrate_pr), MachineType.parse("q35"), gate)
        self.device = GuestDevice(block, "disk0", lambda _: self.path)
        self.records: list[BlockState] = []
        self.device.on_change = self.record

    def make_path(self) -> ScriptedPath:
        """The path to the logical unit."""
        return ScriptedPath(self.unit)

    async def record(self, device: GuestDevice) -> None:
        assert device is self.device
        await asyncio.sleep(0)
        self.records.append(device.block.state())

    async def tell(self, command: Command) -> Response:
        """One command of the guest."""
        return await self.device.execute(QEMU, command)

    async def must(self, command: Command) -> None:
        assert (await self.tell(command)).good

    def third(self, command: Command) -> None:
        """One command of a third nexus, past unit attentions."""
        response = self.unit.execute(THIRD, command)
        while is_unit_attention(response):
            response = self.unit.execute(THIRD, command)
        assert response.good

    @property
    def truth(self) -> Tracked:
        state = self.unit.state
        key, held = state.key_of(GUEST), state.reservation
        if key == 0:
            return Tracked()
        return Tracked(key, state.aptpl, held.type if held is not None and state.holds(GUEST) else None)

    async def settle(self) -> None:
        """Let all that goes on in the background come to its end."""
        for _ in range(400):
            await asyncio.sleep(0)
