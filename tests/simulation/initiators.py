"""What comes by a guest's other sessions at its export: two of its QEMU, one of a program that makes backups.

They read and write beside the guest, reserve by RESERVE(6), abort commands, reset LUNs, log out and in again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field

from holdover.scsi.cdbs.cdb import Inquiry, Read, Release, Reserve, TestUnitReady, Write
from holdover.scsi.command import Command
from tests.simulation.clockwork import Broken
from tests.simulation.exports import INITIATORS, SESSIONS
from tests.simulation.guests import Vm
from tests.simulation.placements import nexuses_of
from tests.simulation.promises import Reserved

_EVERY = 0.4
"""The mean seconds between two of their commands."""

_STILL_SECONDS = 20.0
"""How long an operator watches a guest that stands still, before the operator ends its QEMU.

Until then a session may have a LUN reserved by RESERVE, and a handover waits for its release.
"""

RESERVE, RELEASE = Command(Reserve(6).encode()), Command(Release(6).encode())
_WRITE = Command(Write(1, 1, 10).encode(), bytes(512))
_OTHERS = (
    _WRITE,
    _WRITE,
    Command(Read(1, 1, 10).encode(), data_in_length=512),
    Command(TestUnitReady().encode()),
    Command(Inquiry(allocation_length=96).encode(), data_in_length=96),
)


@dataclass(eq=False)
class Initiators:
    """The sessions of one guest.

    Attributes:
        reserved: By LUN number: which session has reserved it.
    """

    vm: Vm
    reserved: dict[int, Reserved] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, placement in enumerate(self.vm.placements):
            self.reserved[number] = Reserved(placement.lun.name, one_nexus=placement.moved)

    async def work(self) -> None:
        """Send commands for ever, some at the same time."""
        vm, place, still_since = self.vm, self.vm.place, math.inf
        while True:
            await asyncio.sleep(vm.random.expovariate(1 / _EVERY))
            now = vm.world.time()
            still_since = min(still_since, now) if vm.place is None else math.inf
            if vm.place not in (None, place) or now - still_since > _STILL_SECONDS:
                place, left, still_since = vm.place, place, math.inf
                vm.world.create_task(self._leave(left))
            if vm.place is not None and not vm.calm:
                vm.world.create_task(self._act())

    async def _act(self) -> None:
        vm, random = self.vm, self.vm.random
        number, session = random.randrange(len(vm.placements)), random.randrange(len(SESSIONS))
        draw = random.random()
        if draw < 0.04:
            await self._reset(number)
        elif draw < 0.12:
            await self.end(session)
        elif draw < 0.3:
            await self._reserve(number, session)
        elif draw < 0.5:
            await self._release(number, session)
        else:
            await self._send(number, session, random.choice(_OTHERS))

    async def _send(self, number: int, session: int, command: Command) -> None:
        vm, reserved = self.vm, self.reserved[number]
        abort_after = vm.random.expovariate(100) if vm.random.random() < 0.2 else None
        shut_out_by = reserved.by_another(session, self._agent)
        good = await vm.execute(number, command, session, abort_after)
        if good and command is _WRITE:
            reserved.require_not_shut_out(session, self._agent, shut_out_by)

    async def _reserve(self, number: int, session: int) -> None:
        vm, reserved, place = self.vm, self.reserved[number], self.vm.place
        reserved.ends(session)
        if not await vm.execute(number, RESERVE, session) or place is None or place != vm.place:
            return
        placement = vm.placements[number]
        initiator = "" if placement.moved else INITIATORS[session]
        if placement.lun.reserved_by in nexuses_of(place, vm.name, placement, initiator):
            reserved.begins(session, self._agent)

    @property
    def _agent(self) -> object:
        """The agent of the machine on which the guest runs, until that agent ends."""
        return None if self.vm.place is None else self.vm.machines[self.vm.place].process

    async def _release(self, number: int, session: int) -> None:
        with self.reserved[number].ending(session):
            await self.vm.execute(number, RELEASE, session)

    async def _reset(self, number: int) -> None:
        vm = self.vm
        if vm.place is None:
            self.reserved[number].ends(None)
            return
        vm.log.line(vm.place, f"{vm.placements[number].lun.name}: {vm.name} resets it at the export")
        with vm.busy(), self.reserved[number].ending(None):
            try:
                await vm.machines[vm.place].manage(vm.world, vm.name, lambda each: each.reset(number))
            except ConnectionError:
                return

    async def end(self, session: int) -> None:
        """End one session; the next command logs in again."""
        vm = self.vm
        if vm.place is not None:
            with vm.busy():
                await self.log_out(vm.place, session)

    async def log_out(self, place: str, session: int) -> None:
        """End one session at the agent of a machine."""
        vm = self.vm
        vm.log.line(place, f"session {session} of {vm.name} ends")
        with contextlib.ExitStack() as stack:
            for each in self.reserved.values():
                stack.enter_context(each.ending(session))
            with contextlib.suppress(ConnectionError):
                await vm.machines[place].manage(vm.world, vm.name, lambda sessions: sessions.end(session))

    async def leave_all(self) -> None:
        """End all sessions at all machines: no session of a QEMU that has ended is left."""
        for place in self.vm.machines:
            await self._leave(place)

    async def _leave(self, place: str | None) -> None:
        """The QEMU that was on a machine has ended, and so have its sessions."""
        if place is not None:
            for session in range(len(SESSIONS)):
                await self.log_out(place, session)

    def require_free(self) -> None:
        """All sessions have ended, so none of them has a LUN reserved any more.

        A nexus whose agent has died, or has logged out, has lost its RESERVE: the LUN learns that at once,
        and here when the nexus logs in again.
        """
        for placement in self.vm.placements:
            lun = placement.lun
            for machine in self.vm.machines.values():
                if any(
                    path.lun is lun and path.nexus == lun.reserved_by and path.is_open
                    for path in machine.paths
                ):
                    raise Broken(f"{lun.name}: it is still reserved by {lun.reserved_by}")
