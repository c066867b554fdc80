"""The part of `bench.host_disks` that runs inside the rig's kernel: real guests on real disks of the kernel.

Its arguments are a file with `Plan` as JSON and the file for the figures. Each way has LUNs of its own, which
both hosts reach through a nexus each. All guests boot once; then they move to and fro, one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tests.rig.kernel_programs import start_program

from bench.guest_shell import WRITE_ALL, reserve_all, wait_for_disks
from bench.moving import KEY, migrate_plainly, ready, standstill
from holdover.api.client import AgentClient
from holdover.demo.hosts import CertifiedHost, certified_hosts
from holdover.demo.machines.console import Console
from holdover.demo.machines.image import READY
from holdover.demo.machines.process import HostDisk, QemuProcess, VirtualMachine
from holdover.migrate.job import MigrationJob, Qemus
from holdover.paths.sgio import SgIo, SgioPath
from holdover.qemu.monitor import QemuError, QemuMonitor
from holdover.scsi.cdbs.opcodes import InServiceAction, ReservationType
from holdover.scsi.reservation.reservation_in import FullStatus
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import is_unit_attention

HOSTS = ("host-a", "host-b")
_LONG = 600.0
_PAUSE = 0.2


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a guest.

    Attributes:
        letter: Its name in the tables.
        program: The command of its QEMU; () for the installed one.
        options: More properties of each `scsi-block`.
        agents: Whether the agents' helpers serve its disks, and not `qemu-pr-helper`.
        carries: Whether its reservations move with it.
    """

    letter: str
    program: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    agents: bool = False
    carries: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure: ``ways`` alternate in each of ``rounds``; each guest has ``luns`` LUNs."""

    ways: tuple[Way, ...]
    luns: int
    rounds: int
    kernel: str
    initrd: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One migration; times in ms. ``handover`` is what Holdover says that it took, or 0."""

    letter: str
    round: int
    standstill: float
    handover: float = 0.0


def disk(number: int) -> Path:
    """The kernel's SCSI disk with this number: /dev/sda is 0, /dev/sdz 25, /dev/sdaa 26."""
    letters = ""
    while number >= 0:
        letters = chr(ord("a") + number % 26) + letters
        number = number // 26 - 1
    return Path(f"/dev/sd{letters}")


@dataclass
class Guest:
    """A guest that runs on ``HOSTS[here]``."""

    way: Way
    plan: Plan
    folder: Path
    first: int
    """The number of its first LUN."""
    helpers: tuple[Path, Path]
    hosts: dict[str, CertifiedHost]
    here: int = 0
    starts: int = 0
    qemu: QemuProcess = field(init=False)
    console: Console = field(init=False)

    @property
    def name(self) -> str:
        return f"db-{self.way.letter}"

    def disks(self, host: int) -> list[Path]:
        """Its disks on a host: the kernel names all disks of the first nexus, then those of the second."""
        every = len(self.plan.ways) * self.plan.luns
        return [disk(host * every + self.first + lun) for lun in range(self.plan.luns)]

    def start(self, host: int, incoming: str | None = None) -> tuple[QemuProcess, Path]:
        """A QEMU, and the socket of its second monitor."""
        self.starts += 1
        watch = self.folder / f"{self.way.letter}{self.starts}.w"
        program = self.way.program or ("qemu-system-x86_64",)
        program += ("-chardev", f"socket,id=watch,path={watch},server=on,wait=off")
        machine = VirtualMachine(
            name=self.name,
            kernel=Path(self.plan.kernel),
            initrd=Path(self.plan.initrd),
            disks=tuple(HostDisk(device=each, helper=self.helpers[host]) for each in self.disks(host)),
            memory=80 + self.plan.luns,
            incoming=incoming,
            disk_options=self.way.options,
            program=(*program, "-mon", "watch,mode=control"),
        )
        return QemuProcess.start(machine), watch

    async def boot(self) -> None:
        """Boot, and reserve each disk with type 5."""
        self.qemu, self.watch = self.start(0)
        self.console = await self.qemu.console()
        await self.console.wait_for(READY, _LONG)
        await self.run(wait_for_disks(self.plan.luns))
        await self.run(reserve_all(KEY))

    async def run(self, command: str) -> None:
        """Run a command in the guest.

        Raises:
            RuntimeError: It has failed.
        """
        done = await self.console.run(command, timeout=_LONG)
        if done.status != 0:
            raise RuntimeError(f"{self.name}: {command} ended with {done.status}: {done.output}")

    def tell(self, number: signal.Signals) -> None:
        """Stop its QEMU or let it go on."""
        os.kill(self.qemu.pid, number)

    async def move(self, number: int, port: int) -> Figure:
        """Move it to the other host, and check that it has arrived with what moves along."""
        there, uri = 1 - self.here, f"tcp:127.0.0.1:{port}"
        destination, watch = self.start(there, uri)
        async with await monitor(self.watch) as source, await monitor(watch) as target:
            await ready(source, target)
            handover = await self._migrate(source, target, destination, uri)
            took = await standstill(source, target)
        await self.end()
        self.qemu, self.watch, self.here = destination, watch, there
        self.console = await destination.console()
        await self.run("true")
        if self.way.carries:
            await self.run(WRITE_ALL)
            await self._check()
        return Figure(letter=self.way.letter, round=number, standstill=took, handover=handover)

    async def _migrate(
        self, source: QemuMonitor, target: QemuMonitor, destination: QemuProcess, uri: str
    ) -> float:
        if not self.way.agents:
            await migrate_plainly(source, target, uri, stopped=False)
            return 0.0
        names = (HOSTS[self.here], HOSTS[1 - self.here])
        clients = [AgentClient(self.hosts[name].api, timeout=_LONG) for name in names]
        job = MigrationJob(self.name, clients[0], clients[1], lambda _: None)
        try:
            outcome = await job.run(
                Qemus(
                    source=self.qemu.qmp_path, destination=destination.qmp_path, uri=uri, timeout=int(_LONG)
                )
            )
        finally:
            for client in clients:
                await client.close()
        return outcome.milliseconds or 0.0

    async def _check(self) -> None:
        """Check that each LUN has one registrant, this host's nexus, and that it holds a reservation of type
        5.

        Raises:
            RuntimeError: A LUN differs from that.
        """
        io = SgIo(1)
        for each in self.disks(self.here):
            path = SgioPath(each, io)
            while is_unit_attention(
                response := await path.execute(in_command(InServiceAction.READ_FULL_STATUS))
            ):
                pass
            found = [
                (one.key, one.holder, one.type, one.relative_target_port)
                for one in FullStatus.decode(response.data_in).descriptors
            ]
            await path.close()
            wanted = [(KEY, True, ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, self.here + 1)]
            if found != wanted:
                raise RuntimeError(f"{self.name}: {each}: {found}")

    async def end(self) -> None:
        """End its QEMU."""
        await self.console.close()
        await self.qemu.end()


async def monitor(path: Path) -> QemuMonitor:
    """The second monitor of a QEMU, once it exists."""
    async with asyncio.timeout(_LONG):
        while True:
            with contextlib.suppress(QemuError):
                return await QemuMonitor.connect(path, path.name, timeout=_LONG)
            await asyncio.sleep(_PAUSE)


@contextmanager
def agents(folder: Path, hosts: dict[str, CertifiedHost], guest: Guest) -> Iterator[None]:
    """An agent for each host, with a helper's socket; the guest's disks are in the file."""
    with ExitStack() as stack:
        for number, name in enumerate(HOSTS):
            drives = ", ".join(
                f'"scsi-block,id=disk{lun},drive={each},migrate-pr=on"'
                for lun, each in enumerate(guest.disks(number))
            )
            config = folder / f"{name}.toml"
            config.write_text(
                f'name = "{name}"\ninitiator = "iqn.2026-11.org.example:{name}"\n'
                f'state-dir = "{folder / name}.state"\n{hosts[name].toml(hosts)}'
                f'[helper]\nsocket = "{guest.helpers[number]}"\n'
                f'[[guest]]\nname = "{guest.name}"\nmachine = "pc-i440fx-7.2"\n'
                f"incoming = {'true' if number else 'false'}\ndevices = [{drives}]\n[limits]\nstep = 60\n"
            )
            process = start_program([sys.executable, "-m", "holdover", "agent", "--config", str(config)])
            stack.callback(_end, process)
        for each in guest.helpers:
            _appears(each)
        yield


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(_LONG)


def _appears(socket: Path) -> None:
    """Wait until a socket exists."""
    while not socket.exists():
        time.sleep(_PAUSE)


async def measure(guests: list[Guest], rounds: int) -> list[Figure]:
    """All figures. While one guest moves, the QEMUs of all others are stopped."""
    for guest in guests:
        await guest.boot()
        guest.tell(signal.SIGSTOP)
    figures, port = [], 7200
    for number in range(rounds):
        for guest in guests if number % 2 == 0 else reversed(guests):
            port += 1
            guest.tell(signal.SIGCONT)
            figures.append(await guest.move(number, port))
            guest.tell(signal.SIGSTOP)
    for guest in guests:
        guest.tell(signal.SIGCONT)
        await guest.end()
    return figures


def main() -> None:
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    with tempfile.TemporaryDirectory(dir="/run") as name, ExitStack() as stack:
        folder = Path(name)
        hosts = certified_hosts(folder, HOSTS)
        plain = folder / "c-helper.sock"
        process = start_program(["qemu-pr-helper", "-k", str(plain), "-f", f"{plain}.pid"])
        stack.callback(_end, process)
        _appears(plain)
        ours = (folder / "host-a.sock", folder / "host-b.sock")
        guests = [
            Guest(way, plan, folder, number * plan.luns, ours if way.agents else (plain, plain), hosts)
            for number, way in enumerate(plan.ways)
        ]
        for guest in guests:
            if guest.way.agents:
                stack.enter_context(agents(folder, hosts, guest))
        figures = asyncio.run(measure(guests, plan.rounds))
        Path(sys.argv[2]).write_bytes(msgspec.json.encode(figures))


if __name__ == "__main__":
    main()
