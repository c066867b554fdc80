"""The process that `bench.scale` measures: an agent with many guests, and their LUNs in memory.

    python -m bench.scale_inside GUESTS FOLDER fill
    python -m bench.scale_inside GUESTS FOLDER measure FIGURES

`fill` writes into the journal in FOLDER that every guest is registered and holds its LUNs. `measure` starts
an agent with that journal, on LUNs that match it, and writes a `Figures` into FIGURES, as JSON.

For the handovers there is a second agent in the same process, on the same loop. So the figures contain more
work than one host does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import msgspec
import structlog
from tests.paths.local_path import LocalPath

from holdover.agent.daemon import serve
from holdover.agent.guests.step_runner import run_steps
from holdover.agent.host import Host
from holdover.api.client import AgentClient
from holdover.cli.daemons.descriptors import raise_descriptor_limit
from holdover.cli.daemons.switching import SWITCH_SECONDS
from holdover.config.agent_file import AgentConfig, GuestConfig, JournalConfig
from holdover.demo.hosts import certified_hosts
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState
from holdover.iscsi.url import IscsiUrl
from holdover.journal.journal import Journal
from holdover.journal.records import DeviceRecord
from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.logical_unit import LogicalUnit
from holdover.network import event_loop
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.paths.locator import LunLocator
from holdover.paths.sgio import SgIo
from holdover.reservations.questions import identify
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import Path as LunPath
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID

LUNS = 16
_AGENT, _OTHER = "host-a", "host-b"
_IDLE_SECONDS = 5.0
_TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
_PAUSE = 0.002
"""The pause between two snooped commands, in seconds."""
_QEMU = ITNexus(IscsiTransportID("iqn.2026-11.org.holdover:qemu", b"\x80\0\0\0\0\1"))


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one process.

    Attributes:
        memory_mib: The resident memory, without the memory of the LUNs.
        start_seconds: The time from the agent's first step until it answers, with everything in its journal.
        start_cpu_seconds: The processor time in that period, which other work does not lengthen.
        settled_seconds: The time from there until the agent has asked every LUN.
        idle_us: The time of each snooped command of a guest, while nothing else happens.
        busy_us: The same while guests are being handed over.
        refused: How many of these commands were not carried out.
        handovers: How many handovers run at once.
        handovers_seconds: The time from the first prepare to the last finish.
    """

    guests: int
    memory_mib: float
    start_seconds: float
    start_cpu_seconds: float
    settled_seconds: float
    idle_us: list[float]
    busy_us: list[float]
    refused: int
    handovers: int
    handovers_seconds: float


def handed_over(guests: int) -> int:
    """How many of ``guests`` are handed over at once: half of them, and at most 100."""
    return min(100, guests // 2)


class _Medium:
    """A medium of 64 blocks that nobody reads."""

    size = 64 * 512

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002 - `Medium` names it
        return bytes(length)

    def write(self, offset: int, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def unmap(self, offset: int, length: int) -> None: ...

    def extent(self, offset: int) -> tuple[bool, int]:
        return True, self.size - offset

    def prefetch(self, offset: int, length: int) -> None: ...


class _Lun:
    """A logical unit in memory as a device server."""

    def __init__(self, serial: str) -> None:
        self.unit = LogicalUnit(_Medium(), UnitIdentity(serial), greet=False)

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        await asyncio.sleep(0)
        return self.unit.execute(nexus, command)

    async def reset(self) -> None: ...


def _key(guest: int) -> int:
    return 0x1000 + guest


def _commands(guest: int) -> tuple[Command, Command]:
    """The commands that a guest sends to each of its LUNs."""
    key = _key(guest)
    register = out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, key)
    return register, out_command(OutServiceAction.RESERVE, key, type=_TYPE)


class _Site:
    """The LUNs of all guests, and the agents around them."""

    def __init__(self, guests: int, folder: Path) -> None:
        self.guests = guests
        self._folder = folder
        self._hosts = certified_hosts(Path(tempfile.mkdtemp(dir=folder)), (_AGENT, _OTHER))
        self._luns = {
            (self._iqn(guest), lun): _Lun(f"{guest}-{lun}") for guest in range(guests) for lun in range(LUNS)
        }

    def seed(self) -> None:
        """Let every guest hold its LUNs, by the nexus that the agent gives it."""
        for guest in range(self.guests):
            isid = isid_of(f"{self.name(guest)}\0")
            nexus = ITNexus(IscsiTransportID(self._initiator(_AGENT), isid))
            for lun in range(LUNS):
                for command in _commands(guest):
                    assert self._luns[self._iqn(guest), lun].unit.execute(nexus, command).good

    def open_path(
        self, place: LunLocator, identity: InitiatorIdentity, _sessions: IscsiSessions, _io: SgIo
    ) -> LunPath:
        """A path to a LUN of this process; it replaces the agent's own `open_path`."""
        assert isinstance(place, IscsiUrl)
        nexus = ITNexus(IscsiTransportID(identity.initiator, identity.isid))
        return LocalPath(self._luns[place.iqn, place.lun], nexus, str(place))

    async def record(self, guest: int, lun: int) -> DeviceRecord:
        """The agent's record of a device whose guest has sent `_commands`."""
        tracked = Tracked(key=_key(guest), type=_TYPE)
        path = LocalPath(self._luns[self._iqn(guest), lun], _QEMU)
        designator = await run_steps(path, identify(), _IDLE_SECONDS)
        return DeviceRecord(
            guest=self.name(guest),
            designator=str(designator),
            drive=self._drive(guest, lun),
            body=msgspec.json.encode(BlockState(True, Gate.RUNNING, tracked, stale=False)),
        )

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[tuple[Host, AgentClient]]:
        """Run an agent that answers, with its guests."""
        ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(self._config(name), ready.set_result))

        def ended(done: asyncio.Task[None]) -> None:
            if not ready.done():
                ready.set_exception(done.exception() or RuntimeError("the agent ended"))

        task.add_done_callback(ended)
        host = await ready
        client = AgentClient(self._hosts[name].api, timeout=300)
        try:
            yield host, client
        finally:
            await client.close()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def name(self, guest: int) -> str:
        return f"guest{guest}"

    def _of(self, host: str) -> int:
        """How many guests an agent has; those of the second agent are to arrive."""
        return self.guests if host == _AGENT else handed_over(self.guests)

    def _iqn(self, guest: int) -> str:
        return f"iqn.2026-11.org.holdover:bench{guest}"

    def _initiator(self, name: str) -> str:
        return f"iqn.2026-11.org.holdover:{name}"

    def _config(self, name: str) -> AgentConfig:
        return AgentConfig(
            name=name,
            initiator=self._initiator(name),
            state_dir=str(self._folder / f"{name}.state"),
            api=self._hosts[name].api_config(),
            peer=self._hosts[name].peers(self._hosts),
            journal=JournalConfig(file=str(self._folder / f"{name}.journal")),
            guest=tuple(self._guest(guest, name) for guest in range(self._of(name))),
        )

    def _drive(self, guest: int, lun: int) -> str:
        return f"iscsi://127.0.0.1:1/{self._iqn(guest)}/{lun}"

    def _guest(self, guest: int, host: str) -> GuestConfig:
        drives = (self._drive(guest, lun) for lun in range(LUNS))
        devices = tuple(f"scsi-block,id=d{n},drive={url},migrate-pr=on" for n, url in enumerate(drives))
        return GuestConfig(
            name=self.name(guest),
            machine_type="pc-q35-7.2",
            devices=devices,
            export="127.0.0.1:0",
            incoming=host != _AGENT,
        )


async def _fill(site: _Site, folder: Path) -> None:
    journal = Journal.open(folder / f"{_AGENT}.journal")
    for guest in range(site.guests):
        await journal.put(*[await site.record(guest, lun) for lun in range(LUNS)])
    await journal.close()


async def _measure(guests: int, folder: Path) -> Figures:
    before = _resident_mib()
    site = _Site(guests, folder)
    site.seed()
    gc.collect()
    luns = _resident_mib() - before
    with patch("holdover.agent.host.open_path", site.open_path):
        began, began_cpu = time.perf_counter(), time.process_time()
        async with site.agent(_AGENT) as (host, client):
            started, started_cpu = time.perf_counter() - began, time.process_time() - began_cpu
            # `holdover agent` does the same
            gc.collect()
            gc.freeze()
            await _settled(host)
            settled = time.perf_counter() - began - started
            gc.collect()
            memory = _resident_mib() - luns
            idle = await _snooped(host, site, asyncio.create_task(asyncio.sleep(_IDLE_SECONDS)))
            async with site.agent(_OTHER) as (other, _):
                await _settled(other)
                began = time.perf_counter()
                handovers = asyncio.create_task(_hand_over(client, site))
                busy = await _snooped(host, site, handovers)
                await handovers
                took = time.perf_counter() - began
    return Figures(
        guests=guests,
        memory_mib=memory,
        start_seconds=started,
        start_cpu_seconds=started_cpu,
        settled_seconds=settled,
        idle_us=idle.times,
        busy_us=busy.times,
        refused=idle.refused + busy.refused,
        handovers=handed_over(guests),
        handovers_seconds=took,
    )


async def _hand_over(client: AgentClient, site: _Site) -> None:
    names = [site.name(guest) for guest in range(handed_over(site.guests))]
    for ask in (client.prepare, client.commit, client.finish):
        asked = []
        for name in names:
            more = (_OTHER,) if ask == client.prepare else ()
            asked.append(asyncio.ensure_future(ask(name, f"handover-{name}", *more)))
            # The caller is not part of the agent, and sends one command after the other.
            await asyncio.sleep(0)
        await asyncio.gather(*asked)


async def _settled(host: Host) -> None:
    """Wait until every LUN has been asked; an agent with many guests answers before that."""
    devices = [device for guest in host.guests.values() for device in guest.devices]
    while any(device.designator is None or device.block.stale for device in devices):  # noqa: ASYNC110 - none tells
        await asyncio.sleep(0.1)


@dataclass(slots=True)
class _Snooped:
    """The microseconds of each command, and how many commands were refused."""

    times: list[float]
    refused: int = 0


async def _snooped(host: Host, site: _Site, during: asyncio.Task[None]) -> _Snooped:
    """Send PERSISTENT RESERVE OUT for guests that stay, one by one, until ``during`` ends."""
    stay = range(handed_over(site.guests), site.guests)
    found = _Snooped([])
    while not during.done():
        guest = random.choice(stay)
        device = random.choice(host.guests[site.name(guest)].devices)
        register, _ = _commands(guest)
        began = time.perf_counter()
        answer = await device.execute(_QEMU, register)
        found.times.append((time.perf_counter() - began) * 1e6)
        found.refused += not answer.good
        await asyncio.sleep(_PAUSE)
    return found


def _resident_mib() -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    guests, folder, phase = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    # each export needs a descriptor
    raise_descriptor_limit()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    # `holdover agent` does the same
    sys.setswitchinterval(SWITCH_SECONDS)
    if phase == "fill":
        site = _Site(guests, folder)
        event_loop.run(_fill(site, folder))
    else:
        Path(sys.argv[4]).write_bytes(msgspec.json.encode(event_loop.run(_measure(guests, folder))))


if __name__ == "__main__":
    main()
