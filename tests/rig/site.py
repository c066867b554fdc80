"""A site in small: a target, two agents, a real guest in an unmodified QEMU, and an intruder."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from holdover.api.client import AgentClient
from holdover.demo.machines.console import Console
from holdover.demo.machines.image import READY, guest_image
from holdover.demo.machines.process import IscsiDisk, QemuProcess, VirtualMachine
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.migrate.job import MigrationJob, Qemus
from holdover.migrate.result import Progress
from holdover.scsi.cdbs.cdb import Write
from holdover.scsi.command import Command
from holdover.scsi.sense import is_unit_attention
from holdover.scsi.status import Status
from tests.rig.guest_commands import (
    FULL_STATUS,
    KEYS,
    RESERVATION,
    clean,
    clear,
    counts_of,
    register,
    reserve,
)
from tests.rig.processes import Agent, Rig, Target, free_port

GUEST = "db1"
KEY = 0xC0FFEE
"""The guest's."""
BOOT = 600.0
INTRUDER_BLOCK = 100_000
"""Of 512 bytes; far from what the guest writes."""
INTRUDER_DATA = b"intruder" * 64

RESERVATION_TYPES = {
    1: "Write Exclusive",
    3: "Exclusive Access",
    5: "Write Exclusive, registrants only",
    6: "Exclusive Access, registrants only",
    7: "Write Exclusive, all registrants",
    8: "Exclusive Access, all registrants",
}
"""Every type of reservation, and what sg_persist calls it."""


class Intruder:
    """A third initiator that registers nothing and writes all along."""

    def __init__(self, initiator: IscsiInitiator) -> None:
        self._initiator = initiator
        self.accepted = 0
        self.refused = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def at_work(cls, target: Target) -> AsyncIterator[Intruder]:
        name = "iqn.2026-11.org.holdover:intruder"
        isid = bytes.fromhex("800000000001")
        initiator = await IscsiInitiator.connect("127.0.0.1", target.port, target.iqn, name, isid)
        intruder = cls(initiator)
        writing = asyncio.create_task(intruder._write())
        try:
            yield intruder
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            await initiator.close()
        # what the target answered is one thing, what is on the disk another
        assert INTRUDER_DATA not in target.files[0].read_bytes()

    async def _write(self) -> None:
        command = Command(Write(INTRUDER_BLOCK, 1, 10).encode(), INTRUDER_DATA)
        while True:
            response = await self._initiator.execute(0, command)
            if response.status is Status.RESERVATION_CONFLICT:
                self.refused += 1
            elif not is_unit_attention(response):
                self.accepted += 1
            await asyncio.sleep(0.002)

    async def refused_again(self) -> None:
        """Wait until it has been refused once more; it must never have been accepted."""
        before = self.refused
        async with asyncio.timeout(600):
            while self.refused < before + 2:  # noqa: ASYNC110 - counted without an event
                await asyncio.sleep(0.002)
        assert self.accepted == 0


class Site:
    """A target, two agents, and a guest that runs in a QEMU on one of them."""

    def __init__(self, rig: Rig, *, migrate_pr: bool) -> None:
        self.rig = rig
        self.target = rig.target()
        url = self.target.url()
        self.here = rig.agent("host-a", guest=GUEST, drives=[url], migrate_pr=migrate_pr)
        self.there = rig.agent("host-b", guest=GUEST, drives=[url], migrate_pr=migrate_pr, incoming=True)
        image = guest_image()
        self._machine = VirtualMachine(name=GUEST, kernel=image.kernel, initrd=image.initrd)
        self.qemu: QemuProcess | None = None
        self.console: Console | None = None

    async def boot(self) -> None:
        self.qemu = self._start(self.here, None)
        self.console = await self.qemu.console()
        await self.console.wait_for(READY, BOOT)

    async def end(self) -> None:
        if self.console is not None:
            await self.console.close()
        if self.qemu is not None:
            await self.qemu.end()

    async def run(self, command: str) -> str:
        """A command in the guest that has to succeed; its output."""
        status, output = await self.try_to_run(command)
        assert status == 0, f"{command}: exit status {status}\n{output}"
        return output

    async def try_to_run(self, command: str) -> tuple[int, str]:
        assert self.console is not None
        result = await self.console.run(command)
        return result.status, result.output

    async def migrate(self, *options: str, stopped: bool = False) -> subprocess.CompletedProcess[str]:
        """`holdover migrate` with a fresh QEMU on the other host; the guest is where it then says.

        `stopped`: that QEMU is started with `-S`.
        """
        assert self.qemu is not None
        uri = f"tcp:127.0.0.1:{free_port()}"
        async with self._destination(uri, stopped=stopped) as destination:
            arguments = ["migrate", GUEST, "--from", self.here.api, "--to", self.there.api]
            arguments += ["--source-qmp", str(self.qemu.qmp_path), "--migrate-uri", uri]
            arguments += ["--destination-qmp", str(destination.qmp_path), *options]
            done = await asyncio.to_thread(self.rig.holdover, *arguments, timeout=600)
            if done.returncode == 0:
                await self._has_moved_to(destination)
            return done

    async def migrate_with_a_dying_destination(self, after: str, *, stopped: bool = False) -> None:
        """What `holdover migrate` does, with the destination's QEMU killed the moment a step is done."""
        assert self.qemu is not None
        uri = f"tcp:127.0.0.1:{free_port()}"
        async with (
            self._destination(uri, stopped=stopped) as destination,
            contextlib.AsyncExitStack() as stack,
        ):

            def kill(progress: Progress) -> None:
                if progress.action == after and progress.state == "done":
                    os.kill(destination.pid, signal.SIGKILL)

            here, there = AgentClient(self.here.api), AgentClient(self.there.api)
            stack.push_async_callback(here.close)
            stack.push_async_callback(there.close)
            qemus = Qemus(source=self.qemu.qmp_path, destination=destination.qmp_path, uri=uri, timeout=600)
            await MigrationJob(GUEST, here, there, kill).run(qemus)

    @contextlib.asynccontextmanager
    async def _destination(self, uri: str, *, stopped: bool) -> AsyncIterator[QemuProcess]:
        """A QEMU that waits on the other host; ended unless the guest has come to live in it."""
        destination = self._start(self.there, uri, stopped=stopped)
        try:
            yield destination
        finally:
            if self.qemu is not destination:
                await destination.end()

    async def _has_moved_to(self, destination: QemuProcess) -> None:
        await self.end()
        self.here, self.there = self.there, self.here
        self.qemu = destination
        self.console = await destination.console()

    def _start(self, agent: Agent, incoming: str | None, *, stopped: bool = False) -> QemuProcess:
        disk = IscsiDisk(
            portal=agent.portal,
            target=agent.iqn,
            initiator="iqn.2026-11.org.holdover:the-guest",
            user=agent.guest,
            secret=agent.secret_file,
        )
        machine = dataclasses.replace(self._machine, disks=(disk,), incoming=incoming, stopped=stopped)
        return QemuProcess.start(machine)

    # -- what the tests ask of the guest ------------------------------------------------------------

    async def reserve(self, kind: int) -> None:
        await self.run(register(KEY))
        await self.run(reserve(KEY, kind))

    async def unregister(self) -> None:
        """Give the reservation up, and with it the registration."""
        await self.run(clear(KEY))

    async def assert_holds(self, kind: int) -> None:
        """READ KEYS, READ RESERVATION and READ FULL STATUS, asked in the guest; and a write."""
        keys = await self.run(KEYS)
        assert [int(key, 16) for key in re.findall(r"^\s+(0x[0-9a-f]+)$", keys, re.MULTILINE)] == [KEY]
        reservation = await self.run(RESERVATION)
        # SPC-4 6.15.3.2: with an all-registrants type there is no one holder's key to report
        assert f"Key={KEY if kind < 7 else 0:#x}\n" in reservation
        assert f"type: {RESERVATION_TYPES[kind]}\n" in reservation
        status = await self.run(FULL_STATUS)
        assert re.findall(r"Key=(0x[0-9a-f]+)", status) == [f"{KEY:#x}"]
        assert "Reservation holder" in status
        assert f"type: {RESERVATION_TYPES[kind]}\n" in status
        await self.run("dd if=/dev/zero of=/dev/sda bs=4096 seek=4096 count=1 oflag=direct")

    async def workload(self, command: str) -> dict[str, str]:
        return counts_of(await self.run(f"workload {command}"))

    async def assert_goes_on_writing(self) -> None:
        """The workload writes more blocks, and nothing of what it did since its start went wrong."""
        before = int((await self.workload("report"))["writes"])
        async with asyncio.timeout(600):
            counts = await self.workload("report")
            while int(counts["writes"]) < before + 5:
                counts = await self.workload("report")
        assert clean(counts)


class SharedSite:
    """One site for several tests, since booting takes longest. A test that fails has been its last."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self._folder = folder
        self._runner = asyncio.Runner()
        self._site: Site | None = None
        self._usable = True

    def run(self, scenario: Callable[[Site], Awaitable[None]]) -> None:
        if not self._usable:
            self.end_site()
            self.rig = Rig(self._folder)
        self._usable = False
        self._runner.run(self._run(scenario))
        self._usable = True

    async def _run(self, scenario: Callable[[Site], Awaitable[None]]) -> None:
        if self._site is None:
            self._site = Site(self.rig, migrate_pr=True)
            await self._site.boot()
        await scenario(self._site)

    def end_site(self) -> None:
        if self._site is not None:
            self._runner.run(self._site.end())
            self._site = None
        self.rig.end()

    def end(self) -> None:
        self.end_site()
        self._runner.close()
