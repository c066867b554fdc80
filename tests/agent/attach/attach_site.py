"""What the tests of attachments share: disks, processes that look like QEMU, and a site of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdover.agent.attach.attached_guest import Attached, Refused
from holdover.agent.attach.attachment import Attachments
from holdover.agent.attach.devices import DeviceMaker
from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.attach.expected_guest import ExpectedGuests
from holdover.agent.attach.hosted_guest import LeftToQemu
from holdover.agent.attach.records import Keeper
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.config.agent_file import AgentConfig, GuestConfig, Limits, QmpConfig
from holdover.config.rules import Rules
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.helper.connection import Peer
from holdover.journal.memory import MemoryJournal
from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice, SgIo
from holdover.scsi.inquiry import Designator

UUIDS = [f"00000000-0000-0000-0000-00000000000{number}" for number in range(3)]
LUN = Designator.parse("naa.6001405aaaaa")
PC = MachineType.parse("pc-q35-7.2")


class Disks(HostDisks):
    """Whatever descriptor it is, it is of one LUN; the host has no disk."""

    async def designator_of(self, device: OpenDevice, name: str = "") -> Designator:
        return LUN

    async def find(self, designator: Designator) -> tuple[Path, ...]:
        return ()


class Site:
    """The guests of an agent without sockets."""

    def __init__(self, config: AgentConfig, journal: MemoryJournal) -> None:
        self.guests: dict[str, HostedGuest] = {}
        self.in_handover: set[str] = set()
        io = SgIo()
        in_handover = self.in_handover.__contains__
        self.maker = DeviceMaker(
            Rules(config.rule), Disks(io), io, Keeper(journal), 1, in_handover, OpenDisks()
        )
        self.refusal = ""
        """Why no guest may start here."""
        self.attachments = Attachments(config, self.guests, self.make, self.maker, in_handover, self.admit)
        self.peers: list[tuple[Peer, str | None]] = []
        self.arrivals = ExpectedGuests(self.attachments, self.maker, lambda: self.peers)
        for guest in config.guest:
            self.guests[guest.name] = self.make(guest.name, PC, [])
            self.attachments.take_up(self.guests[guest.name], PC, Gate.RUNNING)
        records = journal.load()
        self.attachments.restore(records.guests, records.devices)
        self.arrivals.restore(records.devices)

    def make(
        self, name: str, machine_type: MachineType, devices: list[GuestDevice], *, left_to_qemu: bool = False
    ) -> HostedGuest:
        kind = LeftToQemu if left_to_qemu else HostedGuest
        return kind(name, "host", machine_type, devices, None, Limits())

    async def admit(self, name: str, run: Callable[[], Awaitable[None]]) -> str:
        if not self.refusal:
            await run()
        return self.refusal

    async def runs(self, attached: Attached) -> None:
        """Wait until a guest's commands pass."""
        while attached.gate_now is not Gate.RUNNING:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0)

    async def of(
        self, process: subprocess.Popen[bytes], own: str | None = None, *, lun: Designator | None = LUN
    ) -> Attached:
        """The guest of a process, which shows a disk of a LUN."""
        return await self.attachments.guest_of(Peer(process.pid, 0, 0), own, lun)

    async def gone(self, attached: Attached) -> None:
        for _ in range(1000):
            if attached.process is None:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("its process goes on")

    async def refused(self, process: subprocess.Popen[bytes]) -> str:
        with pytest.raises(Refused) as caught:
            await self.of(process)
        return str(caught.value)


@contextmanager
def qemu(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these options."""
    command = [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()", *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.communicate()


@asynccontextmanager
async def site(
    *guests: GuestConfig, qmp: str | None = None, journal: MemoryJournal | None = None
) -> AsyncIterator[Site]:
    config = AgentConfig(
        name="host",
        initiator="iqn.2026-11.org.example:host",
        guest=guests,
        qmp=None if qmp is None else QmpConfig(socket=qmp),
        limits=Limits(step=0.2),
    )
    found = Site(config, journal or MemoryJournal())
    yield found
    await found.attachments.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 600))
