"""Guests that are measured while they move: real guests in real QEMUs, with reservations on all their LUNs.

Each guest has a target of its own behind the proxy that delays. It boots once, registers and reserves. Then
it moves to and fro between two hosts, each time into a QEMU process that was started for that move. While
another guest is measured, all processes of this one are stopped (SIGSTOP).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.agents import GUEST, agent, monitor_of, own_environment
from bench.delay import DelayProxy
from bench.guest_shell import WRITE_ALL, reserve_all, wait_for_disks
from bench.servers import TARGET_IQN, Server, serve_luns
from holdover.demo.hosts import CertifiedHost, certified_hosts
from holdover.demo.machines.console import Console
from holdover.demo.machines.image import READY, GuestImage
from holdover.demo.machines.process import IscsiDisk, QemuProcess, VirtualMachine
from holdover.demo.processes import free_port
from holdover.iscsi.url import IscsiUrl
from holdover.paths.iscsi import InitiatorIdentity, IscsiPath, IscsiSessions, isid_of
from holdover.qemu.monitor import QemuError, QemuMonitor, QmpEvent
from holdover.scsi.cdbs.opcodes import InServiceAction, ReservationType
from holdover.scsi.reservation.reservation_in import ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import is_unit_attention

KEY = 0x484F4C44
MEMORY = Path("/dev/shm")  # noqa: S108 - folders of our own are made in it
"""A file system without a disk behind it."""
HOSTS = ("host-a", "host-b")
_BOOT = 300.0
_MOVE = 120.0
_WAKE_SECONDS = 0.3
"""For timers that became due while the processes were stopped."""
_LUN_SIZE = 8 << 20
LAST_COPY_MS = 20
"""The `downtime-limit` of all migrations: how long QEMU may copy the last of the memory with the guest
stopped. With QEMU's default of 300 ms, the memory would be the greater part of every figure and of its
noise."""


class NotMeasured(Exception):
    """A guest did not do what was to be measured; the text says which guest, and what it did."""


@dataclass(frozen=True, slots=True)
class GuestKind:
    """One way to run a guest.

    Attributes:
        name: The name in the tables.
        program: The command that starts its QEMU; () for the installed one.
        migrate_pr: The property migrate-pr of QEMU's scsi-block; None if this QEMU does not have it.
        holdover: Whether the guest's disks are behind Holdover's agents.
        journals: The folder of the agents' journals; None: they are with everything else.
        early: Whether the agents have ``early-commit``.
        by_command: Whether `holdover migrate` drives both QEMUs itself. Otherwise the agents drive them.
    """

    name: str
    program: tuple[str, ...] = ()
    migrate_pr: bool | None = None
    holdover: bool = False
    journals: Path | None = None
    early: bool = False
    by_command: bool = False

    @property
    def carries(self) -> bool:
        """Whether the guest's reservations move with it."""
        return self.holdover or self.migrate_pr is True


@dataclass(frozen=True, slots=True)
class Move:
    """One migration.

    Attributes:
        standstill_ms: The time from STOP on the source to RESUME on the destination.
        handover_ms: The part of that time that Holdover itself reports for the handover; None without it.
    """

    standstill_ms: float
    handover_ms: float | None = None


@dataclass
class _Host:
    """What a guest's QEMU uses on one host: disk addresses, its name and, with Holdover, the agent's API."""

    name: str
    portal: str
    iqn: str
    initiator: str
    lun: int
    api: str = ""
    secret: Path | None = None
    pid: int | None = None


@dataclass
class MovingGuest:
    """A guest that runs on ``here``.

    Attributes:
        servers: The processes that serve it: its target and, with Holdover, two agents.
        trace: A file for the trace of the next handovers; None for no traces.
    """

    kind: GuestKind
    luns: int
    image: GuestImage
    proxy: DelayProxy
    folder: Path
    target: Server
    target_port: int
    here: _Host
    there: _Host
    servers: tuple[int, ...] = ()
    trace: Path | None = None
    qemu: QemuProcess | None = None
    console: Console | None = None
    _watches: dict[int, Path] = field(default_factory=dict)

    async def boot(self) -> None:
        """Boot the guest, and check that all disks are there."""
        self.qemu = self._start(self.here, None, False)
        self.console = await self.qemu.console()
        await self.console.wait_for(READY, _BOOT)
        await self._run(wait_for_disks(self.luns))

    async def reserve(self) -> None:
        """Register and reserve (type 5) on all LUNs, in the guest."""
        await self._run(reserve_all(KEY), timeout=_BOOT)
        await self._check_reservations()

    async def end(self) -> None:
        """End the guest's QEMU."""
        if self.console is not None:
            await self.console.close()
        if self.qemu is not None:
            await self.qemu.end()

    def rest(self) -> None:
        """Stop all processes of the guest, so that they take no time from another guest's."""
        self._signal(signal.SIGSTOP)

    async def wake(self) -> None:
        """Let them go on, and wait for what they have to catch up on."""
        self._signal(signal.SIGCONT)
        await asyncio.sleep(_WAKE_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        qemu = () if self.qemu is None or not self.qemu.running else (self.qemu.pid,)
        for pid in (*self.servers, *qemu):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def move(self, delay: float, stopped: bool) -> Move:
        """Migrate the guest to the other host, with ``delay`` seconds in each direction to the target.

        Only the migration has the delay. Starting the destination's QEMU, and checking that the reservations
        came along, happen without it. ``stopped`` starts the destination with `-S`.

        Raises:
            NotMeasured: The guest did not arrive, or arrived without its reservations.
        """
        assert self.qemu is not None
        uri = f"tcp:127.0.0.1:{free_port()}"
        destination = self._start(self.there, uri, stopped)
        try:
            async with (
                await self._watch(self.qemu) as source_watch,
                await self._watch(destination) as destination_watch,
            ):
                await ready(source_watch, destination_watch)
                await self.proxy.set_delay(delay)
                try:
                    handover = await self._migrate(source_watch, destination_watch, destination, uri, stopped)
                    took = await standstill(source_watch, destination_watch)
                finally:
                    await self.proxy.set_delay(0)
        except BaseException:
            await destination.end()
            raise
        await self.end()
        self.qemu, self.here, self.there = destination, self.there, self.here
        self.console = await destination.console()
        await self._check_arrival()
        return Move(took, handover)

    async def _migrate(
        self, source: QemuMonitor, destination: QemuMonitor, qemu: QemuProcess, uri: str, stopped: bool
    ) -> float | None:
        assert self.qemu is not None
        if not self.kind.holdover:
            await migrate_plainly(source, destination, uri, stopped)
            return None
        trace = () if self.trace is None else ("--trace", str(self.trace))
        if not self.kind.by_command:
            command = ("migrate", GUEST, "--at", self.here.api, "--to", self.there.name, "--json", *trace)
            milliseconds = json.loads(await _holdover(self.folder, *command)).get("commit_ms")
        else:
            command = ("migrate", GUEST, "--from", self.here.api, "--to", self.there.api, "--json", *trace)
            command += ("--source-qmp", str(self.qemu.qmp_path), "--destination-qmp", str(qemu.qmp_path))
            said = await _holdover(self.folder, *command, "--migrate-uri", uri)
            milliseconds = json.loads(said).get("outcome", {}).get("milliseconds")
        return float(milliseconds) if milliseconds is not None else None

    async def _check_arrival(self) -> None:
        """Check that the guest lives and, if its reservations move, has them all and writes to each disk."""
        if not self.kind.carries:
            await self._run("true")
            return
        await self._check_reservations()
        await self._run(WRITE_ALL)

    async def _check_reservations(self) -> None:
        """Check that each LUN has one registrant, with the guest's key, and a reservation of type 5.

        The guest's writes show that it is that registrant: nobody else may write.

        Raises:
            NotMeasured: A LUN differs from that.
        """
        sessions = IscsiSessions()
        identity = InitiatorIdentity("iqn.2026-11.org.holdover:bench-observer", isid_of("bench"))
        for lun in range(self.target.lun, self.target.lun + self.luns):
            path = sessions.path(IscsiUrl("127.0.0.1", self.target_port, TARGET_IQN, lun), identity)
            try:
                keys = ReadKeys.decode(await _ask(path, InServiceAction.READ_KEYS)).keys
                held = ReadReservation.decode(await _ask(path, InServiceAction.READ_RESERVATION)).reservation
            finally:
                await path.close()
            if keys != (KEY,) or held != Reservation(KEY, ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY):
                raise NotMeasured(f"{self.kind.name}: {path.name}: keys {keys}, reservation {held}")

    async def _run(self, command: str, timeout: float = 120.0) -> None:
        assert self.console is not None
        done = await self.console.run(command, timeout=timeout)
        if done.status != 0:
            raise NotMeasured(
                f"{self.kind.name}: {command} in the guest ended with {done.status}: {done.output}"
            )

    def _start(self, host: _Host, incoming: str | None, stopped: bool) -> QemuProcess:
        disks = tuple(
            IscsiDisk(
                portal=host.portal,
                target=host.iqn,
                initiator=host.initiator,
                lun=host.lun + lun,
                user=GUEST,
                secret=host.secret,
            )
            for lun in range(self.luns)
        )
        # A second monitor, because the one that `holdover migrate` uses takes one client at a time.
        watch = Path(tempfile.mkdtemp(dir=self.folder)) / "w"
        program = self.kind.program or ("qemu-system-x86_64",)
        program += (
            "-chardev",
            f"socket,id=watch,path={watch},server=on,wait=off",
            "-mon",
            "watch,mode=control",
        )
        options = (
            () if self.kind.migrate_pr is None else (f"migrate-pr={'on' if self.kind.migrate_pr else 'off'}",)
        )
        qemu = QemuProcess.start(
            VirtualMachine(
                name=GUEST,
                kernel=self.image.kernel,
                initrd=self.image.initrd,
                disks=disks,
                memory=96 + self.luns,
                incoming=incoming,
                stopped=stopped,
                disk_options=options,
                program=program,
            )
        )
        self._watches[qemu.pid] = watch
        monitor = monitor_of(self.folder, host.name)
        monitor.unlink(missing_ok=True)
        monitor.symlink_to(qemu.qmp_path)
        return qemu

    async def _watch(self, qemu: QemuProcess) -> QemuMonitor:
        """The second monitor of a QEMU, once it exists."""
        path = self._watches[qemu.pid]
        async with asyncio.timeout(_MOVE):
            while True:
                if not qemu.running:
                    raise NotMeasured(f"{self.kind.name}: QEMU ended:\n{qemu.errors}")
                # The socket exists a moment before QEMU listens at it.
                with contextlib.suppress(QemuError):
                    return await QemuMonitor.connect(path, self.kind.name, timeout=_MOVE)
                await asyncio.sleep(0.02)


async def _ask(path: IscsiPath, action: InServiceAction) -> bytes:
    while is_unit_attention(response := await path.execute(in_command(action))):
        pass
    return response.data_in


async def ready(source: QemuMonitor, destination: QemuMonitor) -> None:
    """Check that both monitors answer, and keep the source's memory out of the figures."""
    await source.execute("migrate-set-parameters", {"downtime-limit": LAST_COPY_MS, "max-bandwidth": 1 << 34})
    if (state := await destination.query_status()) != "inmigrate":
        raise NotMeasured(f"the destination does not wait for a guest, it is {state}")


async def migrate_plainly(source: QemuMonitor, destination: QemuMonitor, uri: str, stopped: bool) -> None:
    """Migrate as an operator's tool does without Holdover."""
    events = {"capabilities": [{"capability": "events", "state": True}]}
    for monitor in (source, destination):
        await monitor.execute("migrate-set-capabilities", events)
    since, arrived = len(source.events), len(destination.events)
    await source.execute("migrate", {"uri": uri})
    async with asyncio.timeout(_MOVE):
        ended = await source.wait_event(
            lambda event: event.migration_status in {"completed", "failed", "cancelled"}, since=since
        )
        if ended.migration_status != "completed":
            raise NotMeasured(f"{source.name}: {(await source.query_migrate()).error}")
        if stopped:
            await destination.wait_event(lambda event: event.migration_status == "completed", since=arrived)
            await destination.execute("cont")


async def standstill(source: QemuMonitor, destination: QemuMonitor) -> float:
    def named(name: str) -> Callable[[QmpEvent], bool]:
        return lambda event: event.name == name

    async def last(monitor: QemuMonitor, name: str) -> QmpEvent:
        await monitor.wait_event(named(name))
        return [event for event in monitor.events if event.name == name][-1]

    async with asyncio.timeout(_MOVE):
        resumed, stopped = await last(destination, "RESUME"), await last(source, "STOP")
    return resumed.time.milliseconds_since(stopped.time)


async def _holdover(folder: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "holdover",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=own_environment(folder),
        cwd=folder,
        start_new_session=True,
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise NotMeasured(f"holdover {' '.join(arguments)}: {output.decode()}{errors.decode()}")
    return output.decode()


@asynccontextmanager
async def moving_guest(
    kind: GuestKind, luns: int, image: GuestImage, proxy: DelayProxy, server: Server
) -> AsyncIterator[MovingGuest]:
    """A guest that has booted and holds reservations on all of its ``luns`` LUNs."""
    with tempfile.TemporaryDirectory(prefix="hb-") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            files = [folder / f"lun{lun}" for lun in range(luns)]
            for file in files:
                with file.open("wb") as new:
                    new.truncate(_LUN_SIZE)
            target = stack.enter_context(serve_luns(server, files))
            way = await proxy.route(target.port)
            start = _behind_agent if kind.holdover else _plain
            near = stack.enter_context(tempfile.TemporaryDirectory(prefix="hb-", dir=kind.journals))
            place = _Place(folder, Path(near), way, server, luns, certified_hosts(folder, HOSTS), kind.early)
            here, there = (stack.enter_context(start(place, host)) for host in HOSTS)
            servers = (target.pid, *(host.pid for host in (here, there) if host.pid is not None))
            guest = MovingGuest(kind, luns, image, proxy, folder, server, target.port, here, there, servers)
            stack.push_async_callback(guest.end)
            # what is stopped cannot end in order
            stack.callback(guest._signal, signal.SIGCONT)
            await guest.boot()
            await guest.reserve()
            yield guest


@dataclass(frozen=True, slots=True)
class _Place:
    """What both hosts of a guest share: folders, the proxy's port, the target's LUNs, the hosts'
    certificates, and whether the agents have ``early-commit``."""

    folder: Path
    journals: Path
    port: int
    server: Server
    luns: int
    hosts: dict[str, CertifiedHost]
    early: bool


@contextlib.contextmanager
def _plain(place: _Place, host: str) -> Iterator[_Host]:
    initiator = f"iqn.2026-11.org.holdover:{host}"
    yield _Host(host, f"127.0.0.1:{place.port}", TARGET_IQN, initiator, place.server.lun)


@contextlib.contextmanager
def _behind_agent(place: _Place, host: str) -> Iterator[_Host]:
    luns = range(place.server.lun, place.server.lun + place.luns)
    drives = [f"iscsi://127.0.0.1:{place.port}/{TARGET_IQN}/{lun}" for lun in luns]
    arrives = host != HOSTS[0]
    with agent(
        place.folder,
        host,
        place.hosts,
        drives,
        incoming=arrives,
        journals=place.journals,
        early=place.early,
    ) as there:
        initiator = "iqn.2026-11.org.holdover:guest"
        yield _Host(host, there.portal, there.iqn, initiator, 0, there.api, there.secret, there.pid)
