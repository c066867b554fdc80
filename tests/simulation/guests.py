"""The guests of a simulation, each in a QEMU that runs on one machine at a time or stands still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from holdover.guest.gate import Gate
from holdover.scsi.cdbs.cdb import Read, TestUnitReady, Write
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_out import in_command, out_command
from tests.simulation.clockwork import Process
from tests.simulation.machines import Machine
from tests.simulation.placements import Placement
from tests.simulation.promises import Ledger
from tests.simulation.transcript import Transcript, describe

_TYPES = tuple(ReservationType)
_UNMOVED_KEY = 0xE0
_EVERY = 1.5
"""The mean seconds between two commands of a guest."""


@dataclass(eq=False)
class Vm:
    """A guest.

    Attributes:
        place: The machine on which it runs; None while it stands still.
        belongs: The machine to which it belongs as long as nothing moves it.
        exported: Whether it has its disks by an export of the agent.
        issued: The commands of guests that are under way, by identity: all others are an agent's own.
    """

    name: str
    world: Process
    random: Random
    log: Transcript
    machines: dict[str, Machine]
    placements: list[Placement]
    ledgers: dict[str, Ledger]
    others: Callable[[Placement], list[int]]
    issued: dict[int, Command]
    belongs: str
    keys: tuple[int, ...]
    exported: bool = False
    place: str | None = None
    calm: bool = False
    _outstanding: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, host: str, why: str) -> None:
        """Let the guest run on a machine."""
        self.log.line(host, f"{self.name} runs here: {why}")
        self.place = host
        self.belongs = host

    async def stop(self) -> None:
        """Stop the guest, as QEMU does: return when none of its commands is under way."""
        if self.place is not None:
            self.log.line(self.place, f"{self.name} is stopped")
        self.place = None
        while self._outstanding:
            self._idle.clear()
            await self._idle.wait()

    @property
    def idle(self) -> bool:
        """Whether no command of the guest is under way."""
        return not self._outstanding

    def kill(self) -> None:
        """The machine on which the guest runs has lost its power."""
        self.place = None

    async def work(self) -> None:
        """Send commands for ever."""
        while True:
            await asyncio.sleep(self.random.expovariate(1 / _EVERY))
            if self.place is not None and not self.calm:
                number = self.random.randrange(len(self.placements))
                await self.execute(number, self._command(self.placements[number]))

    async def settle(self) -> None:
        """Register and reserve on most LUNs, before anything goes wrong."""
        for number in range(len(self.placements)):
            if not self.placements[number].moved:
                continue
            key = self.keys[0]
            if self.random.random() < 0.9:
                aptpl = self.random.random() < 0.8
                await self._past_attentions(
                    number, out_command(OutServiceAction.REGISTER, 0, key, aptpl=aptpl)
                )
            if self.random.random() < 0.8:
                kind = self.random.choice(_TYPES)
                await self._past_attentions(number, out_command(OutServiceAction.RESERVE, key, type=kind))

    async def look(self) -> None:
        """Send harmless commands to each LUN, so that the agent meets what the guest's nexus is told."""
        for number in range(len(self.placements)):
            await self._past_attentions(number, Command(TestUnitReady().encode()))
            await self.execute(number, in_command(InServiceAction.READ_KEYS))

    async def _past_attentions(self, number: int, command: Command) -> None:
        for _ in range(4):
            if await self.execute(number, command):
                return

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """While something of the guest is under way, it is not `idle`."""
        self._outstanding += 1
        try:
            yield
        finally:
            self._outstanding -= 1
            if not self._outstanding:
                self._idle.set()

    async def execute(
        self, number: int, command: Command, session: int = 0, abort_after: float | None = None
    ) -> bool:
        """Send a command to one of the LUNs; whether it ended in GOOD.

        ``session``, ``abort_after``: as `Machine.execute` has them.
        """
        place = self.place
        if place is None:
            return False
        # equal commands of the guest and of the agent are told apart by their identity
        own = Command(command.cdb, command.data_out, command.data_in_length)
        self.issued[id(own)] = own
        with self.busy():
            try:
                response = await self.machines[place].execute(
                    self.world, self.name, number, own, session, abort_after
                )
            except ConnectionError:
                return False
        if self.log.on:
            lun = self.placements[number].lun.name
            by = f" by session {session}" if self.exported else ""
            self.log.line(self.name, f"{lun}: {describe('', command)}{by}: {response.status.name}")
        return response.good

    def _command(self, placement: Placement) -> Command:
        random = self.random
        draw = random.random()
        if draw < 0.2:
            return Command(Write(1, 1, 10).encode(), bytes(512))
        if draw < 0.3:
            return Command(Read(1, 1, 10).encode(), data_in_length=512)
        if draw < 0.35:
            return Command(TestUnitReady().encode())
        if draw < 0.5:
            action = random.choice((InServiceAction.READ_KEYS, InServiceAction.READ_RESERVATION))
            return in_command(action)
        return self._change(placement) if placement.moved else self._unmoved_change()

    def _unmoved_change(self) -> Command:
        """A change of what stays behind when the guest moves."""
        random = self.random
        action = random.choice(tuple(OutServiceAction)[:4])
        kind = ReservationType.WRITE_EXCLUSIVE
        if action is OutServiceAction.REGISTER:
            return out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, _UNMOVED_KEY)
        return out_command(action, _UNMOVED_KEY, type=kind)

    def _change(self, placement: Placement) -> Command:
        random, truth = self.random, self.ledgers[placement.lun.name].truth(self.name)
        key = truth.key
        aptpl = random.random() < 0.8
        draw = random.random()
        if key == 0 or draw < 0.15:
            action = random.choice(
                (OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY)
            )
            return out_command(action, key, random.choice(self.keys), aptpl=aptpl)
        if truth.type is None or draw < 0.5:
            kind = truth.type or random.choice(_TYPES)
            return out_command(OutServiceAction.RESERVE, key, type=kind)
        if draw < 0.6:
            return out_command(OutServiceAction.RELEASE, key, type=truth.type)
        if draw < 0.75 and (others := self.others(placement)):
            action = random.choice((OutServiceAction.PREEMPT, OutServiceAction.PREEMPT_AND_ABORT))
            return out_command(action, key, random.choice(others), type=truth.type)
        if draw < 0.78:
            return out_command(OutServiceAction.REGISTER, key, 0)
        if draw < 0.8:
            return out_command(OutServiceAction.CLEAR, key)
        return out_command(OutServiceAction.REGISTER, key, random.choice(self.keys), aptpl=aptpl)

    def require(self, why: str) -> None:
        """Check that the guest may run where it runs."""
        place = self.place
        if place is None:
            return
        for number, placement in enumerate(self.placements):
            device = self.machines[place].device(self.name, number)
            if device is not None and placement.moved and device.block.gate is Gate.RUNNING:
                lun = placement.lun
                self.ledgers[lun.name].require_runs(
                    self.name, place, lun.state, f"{self.name} runs on {place}{why}"
                )
