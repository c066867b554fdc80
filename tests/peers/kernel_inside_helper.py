"""Run inside a kernel of the rig: a real guest on a real host disk, its reservations by the agents' helpers.

/dev/sda is the source host's nexus, /dev/sdb the destination's, /dev/sdc a third that never registers.
Writes what it sees to the file that is its first argument; then come a kernel and an initrd for the guest,
and how to start the newest QEMU, if that is here. What it should see is
`test_kernel_helper`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from holdover.agent.handover.handovers import HandoverProblem
from holdover.agent.host import Host
from holdover.api.client import AgentClient
from holdover.config.agent_file import AgentConfig, HelperConfig, Limits
from holdover.config.rules import Rule
from holdover.demo.hosts import certified_hosts
from holdover.demo.machines.console import Console
from holdover.demo.machines.image import READY, GuestImage
from holdover.demo.machines.process import HostDisk, QemuProcess, VirtualMachine
from holdover.migrate.job import MigrationJob, Qemus
from holdover.migrate.result import MigrateFailed
from holdover.paths.sgio import SgIo, SgioPath
from holdover.qemu.migration import LiveMigration
from holdover.scsi.cdbs.cdb import Write
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_in import Capabilities, FullStatus
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import describe_response, is_unit_attention
from tests.rig.guest_commands import CAPABILITIES, KEYS, RESERVATION, WRITE, register, reserve, unregister
from tests.rig.kernel_programs import start_program
from tests.rig.serial_line import said
from tests.rig.served import served

HOSTS = ("host-a", "host-b")
GUEST = "db1"
KEY = 0x600D
TYPES = (1, 5, 8)
"""The types of reservation with which the guest moves."""
DISKS = (Path("/dev/sda"), Path("/dev/sdb"), Path("/dev/sdc"))
_BOOT = 600.0


class Site:
    """Both agents, the guest where it is now, and a look at the LUN from outside."""

    def __init__(self, folder: Path, image: GuestImage) -> None:
        self.folder = folder
        self.certified = certified_hosts(folder, HOSTS)
        self.image = image
        self.io = SgIo(4)
        self.paths = [SgioPath(disk, self.io) for disk in DISKS]
        self.here = 0
        self.port = 7200
        self.program: tuple[str, ...] = ()
        self.disk_options: tuple[str, ...] = ()
        self.qemu: QemuProcess
        self.console: Console

    def helper(self, host: int) -> Path:
        return self.folder / f"{HOSTS[host]}.sock"

    def start_qemu(self, host: int, helper: Path, incoming: str | None = None) -> QemuProcess:
        disk = HostDisk(device=DISKS[host], helper=helper)
        machine = VirtualMachine(
            name=GUEST,
            kernel=self.image.kernel,
            initrd=self.image.initrd,
            disks=(disk,),
            memory=80,
            incoming=incoming,
            program=self.program,
            disk_options=self.disk_options,
        )
        return QemuProcess.start(machine)

    async def boot(self, helper: Path) -> None:
        self.qemu = self.start_qemu(self.here, helper)
        self.console = await self.qemu.console()
        await self.console.wait_for(READY, _BOOT)

    async def shell(self, command: str) -> str:
        return said(await self.console.run(command, timeout=600))

    async def reserve(self, kind: int) -> None:
        await self.shell(register(KEY))
        await self.shell(reserve(KEY, kind))

    async def leave(self) -> None:
        await self.shell(unregister(KEY))

    async def seen(self) -> dict[str, Any]:
        """What the guest sees, what the LUN says, and what becomes of a third nexus's write."""
        status = await self.ask(2, in_command(InServiceAction.READ_FULL_STATUS))
        return {
            "reservation": await self.shell(RESERVATION),
            "keys": await self.shell(KEYS),
            "guest_capabilities": await self.shell(CAPABILITIES),
            "write": await self.shell(WRITE),
            "registrants": [
                {
                    "key": each.key,
                    "holder": each.holder,
                    "type": each.type,
                    "port": each.relative_target_port,
                    "initiator": str(each.transport_id),
                }
                for each in FullStatus.decode(status).descriptors
            ],
            "aptpl": Capabilities.decode(
                await self.ask(2, in_command(InServiceAction.REPORT_CAPABILITIES))
            ).ptpl_a,
            "third": await self.third_writes(),
        }

    async def ask(self, nexus: int, command: Command) -> bytes:
        response = await self.paths[nexus].execute(command)
        while is_unit_attention(response):
            response = await self.paths[nexus].execute(command)
        return response.data_in

    async def third_writes(self) -> str:
        write = Command(Write(8, 1, 10).encode(), bytes(512))
        response = await self.paths[2].execute(write)
        while is_unit_attention(response):
            response = await self.paths[2].execute(write)
        return describe_response(response)

    async def migrate(self, helper: Path | None = None, fail_after: str | None = None) -> str:
        """To the other host; the outcome in a word or what went wrong."""
        there = 1 - self.here
        self.port += 1
        uri = f"tcp:127.0.0.1:{self.port}"
        qemu = self.start_qemu(there, helper or self.helper(there), uri)
        clients = [AgentClient(self.certified[HOSTS[host]].api, timeout=600) for host in (self.here, there)]
        orchestrator = MigrationJob(GUEST, clients[0], clients[1], lambda _: None, fail_after=fail_after)
        try:
            outcome = await orchestrator.run(
                Qemus(source=self.qemu.qmp_path, destination=qemu.qmp_path, uri=uri, timeout=600)
            )
        except MigrateFailed as error:
            await qemu.end()
            return f"failed: {error.reason} | {error.now}"
        finally:
            for client in clients:
                await client.close()
        await self.moved(qemu)
        return "moved" if not outcome.warnings else f"moved: {outcome.warnings}"

    async def migrate_without_agents(self, helper: Path) -> None:
        """To the other host as any operator would who knows nothing of reservations."""
        self.port += 1
        uri = f"tcp:127.0.0.1:{self.port}"
        qemu = self.start_qemu(1 - self.here, helper, uri)
        async with await self.qemu.monitor() as source, await qemu.monitor() as destination:
            migration = LiveMigration(source, destination, uri)
            await migration.start()
            await migration.wait_stopped(300)
            await migration.switch_over()
            await migration.wait_arrived(300)
        await self.moved(qemu)

    async def forget(self) -> None:
        """Nobody is registered any more, and the guest runs on the first host again."""
        await self.qemu.end()
        await self.ask(2, out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, 1))
        await self.ask(2, out_command(OutServiceAction.CLEAR, 1))
        self.here = 0

    async def moved(self, qemu: QemuProcess) -> None:
        await self.console.close()
        await self.qemu.end()
        self.qemu, self.here = qemu, 1 - self.here
        self.console = await qemu.console()


@contextmanager
def agents(site: Site) -> Iterator[None]:
    """An agent for each host, with the guest's disk and a helper's socket."""
    processes = []
    with contextlib.ExitStack() as stack:
        for host, name in enumerate(HOSTS):
            config = site.folder / f"{name}.toml"
            config.write_text(
                f'name = "{name}"\ninitiator = "iqn.2026-11.org.example:{name}"\n'
                f'state-dir = "{site.folder / name}.state"\n'
                f"{site.certified[name].toml(site.certified)}"
                f'[helper]\nsocket = "{site.helper(host)}"\n'
                f'[[guest]]\nname = "{GUEST}"\nmachine = "pc-i440fx-7.2"\n'
                f"incoming = {'true' if host else 'false'}\n"
                f'devices = ["scsi-block,id=disk0,drive={DISKS[host]},migrate-pr=on"]\n'
                "[limits]\nstep = 60\n"
            )
            log = stack.enter_context((site.folder / f"{name}.log").open("wb"))
            command = [sys.executable, "-m", "holdover", "agent", "--config", str(config), "--ephemeral"]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        try:
            for host in (0, 1):
                appears(site.helper(host))
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(600)


@asynccontextmanager
async def agents_without_guests(site: Site) -> AsyncGenerator[list[Host]]:
    """Agents in this process, whose files name no guest."""
    tasks, hosts = [], []
    for number, name in enumerate(HOSTS):
        config = AgentConfig(
            name=name,
            initiator=f"iqn.2026-11.org.example:{name}",
            state_dir=str(site.folder / f"{name}.state"),
            api=site.certified[name].api_config(),
            peer=site.certified[name].peers(site.certified),
            helper=HelperConfig(socket=str(site.helper(number))),
            rule=(Rule(guest="db*", lun="naa.6001405*", migrate_pr="on"),),
            limits=Limits(step=60),
        )
        task, host_of = served(config)
        tasks.append(task)
        hosts.append(await host_of)
    try:
        yield hosts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def qemu_pr_helper(socket: Path) -> Iterator[Path]:
    """QEMU's own helper."""
    process = start_program(["qemu-pr-helper", "-k", str(socket), "-f", f"{socket}.pid"])
    try:
        appears(socket)
        yield socket
    finally:
        process.terminate()
        process.wait(600)


def appears(socket: Path) -> None:
    deadline = time.monotonic() + 120
    while not socket.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{socket} did not appear")
        time.sleep(0.2)


async def unnamed(site: Site, hosts: Sequence[Host]) -> dict[str, Any]:
    """A guest that no file names moves, and its QEMU is started anew where it is then."""
    await site.boot(site.helper(0))
    await site.reserve(1)
    before = await site.seen()
    outcome = await site.migrate()
    seen = {"before": before, "outcome": outcome, "after": await site.seen(), "here": site.here}
    await site.console.close()
    await site.qemu.end()
    await site.boot(site.helper(site.here))
    seen["restarted"] = await site.seen()
    seen["known"] = [
        [(device.drive, device.key, device.gate) for device in guest.devices]
        for guest in hosts[site.here].state().guests
    ]
    return seen


async def moved_by_qemu(site: Site, hosts: Sequence[Host], program: tuple[str, ...]) -> dict[str, Any]:
    """A QEMU that moves its guest's reservations itself, through the agents' helpers."""
    site.program, site.disk_options = program, ("migrate-pr=on",)
    await site.boot(site.helper(0))
    await site.reserve(1)
    seen: dict[str, Any] = {"before": await site.seen()}
    try:
        await hosts[0].handovers.prepare(GUEST, "h", HOSTS[1])
    except HandoverProblem as error:
        seen["refused"] = str(error)
    await site.migrate_without_agents(site.helper(1))
    seen |= {"after": await site.seen(), "here": site.here}
    seen["shown"] = [
        [device.gate for guest in host.state().guests for device in guest.devices] for host in hosts
    ]
    site.program, site.disk_options = (), ()
    return seen


async def without_agents(site: Site) -> dict[str, Any]:
    """The harm: a guest that moves by QEMU's own helper."""
    with qemu_pr_helper(site.folder / "c-helper.sock") as helper:
        await site.boot(helper)
        await site.reserve(1)
        before = await site.seen()
        await site.migrate_without_agents(helper)
        seen = {"before": before, "after": await site.seen(), "here": site.here}
        await site.qemu.end()
    return seen


async def main(image: GuestImage, newest: tuple[str, ...]) -> dict[str, Any]:
    observed: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir="/run") as name:
        site = Site(Path(name), image)
        try:
            with agents(site):
                await site.boot(site.helper(0))
                for kind in TYPES:
                    await site.reserve(kind)
                    before = await site.seen()
                    outcome = await site.migrate()
                    observed[f"type {kind}"] = {
                        "before": before,
                        "outcome": outcome,
                        "after": await site.seen(),
                        "here": site.here,
                    }
                    await site.leave()
                await site.reserve(1)
                outcome = await site.migrate(fail_after="commit")
                observed["failed"] = {"outcome": outcome, "after": await site.seen(), "here": site.here}
                await site.forget()
            async with agents_without_guests(site) as hosts:
                observed["unnamed"] = await unnamed(site, hosts)
                await site.forget()
            if newest:
                async with agents_without_guests(site) as hosts:
                    observed["moved by QEMU"] = await moved_by_qemu(site, hosts, newest)
                    await site.forget()
            observed["without"] = await without_agents(site)
        except BaseException:
            for host in HOSTS:
                log = site.folder / f"{host}.log"
                sys.stdout.write(f"--- {host}\n{log.read_text() if log.exists() else ''}\n")
            raise
    return observed


if __name__ == "__main__":
    result, kernel, initrd = (Path(argument) for argument in sys.argv[1:4])
    observed = asyncio.run(main(GuestImage(kernel, initrd), tuple(sys.argv[4:])))
    result.write_text(json.dumps(observed))
