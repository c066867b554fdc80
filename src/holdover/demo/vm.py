"""The act with a virtual machine: a real Linux guest in one QEMU that is live-migrated to another QEMU."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from holdover.config.agent_file import export_iqn
from holdover.demo.act import GUEST, Act, DemoStage, Sums, holder_of, orchestrator, stage
from holdover.demo.machines.console import Console, ConsoleError
from holdover.demo.machines.image import READY, GuestImage, ImageError, guest_image, missing_packages
from holdover.demo.machines.process import IscsiDisk, QemuProcess, VirtualMachine, missing_qemu_packages
from holdover.demo.messages import Connect, End, Tick
from holdover.demo.processes import Child, DemoFailed, free_port, started
from holdover.demo.watching import ProgressListener, Recording
from holdover.migrate.job import COPY, SWITCH_OVER, Qemus
from holdover.qemu.monitor import QemuError

_SECONDS = 5.0
"""How long the guest writes before and after its migration: software emulation is slow."""

_POLL = 0.5
_BOOT_SECONDS = 180.0
_KEY = "0x484f4c44"


class VmMissing(Exception):
    """A package that the virtual machine needs is missing and could not be installed."""


def prepare(out: TextIO, agree: Callable[[str], bool]) -> None:
    """Install what is missing, if that is possible and the person agrees, and build the guest.

    ``agree`` asks the person a question.

    Raises:
        VmMissing: A package is missing; the message names the packages to install.
    """
    missing = sorted({*missing_qemu_packages(), *missing_packages()})
    may = os.geteuid() == 0 and shutil.which("apt-get") is not None
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    needed = f"The virtual machine needs these Debian packages: {' '.join(missing)}."
    if missing and not (may and agree(f"{needed} Install them?")):
        raise VmMissing(f"{needed} Nothing was installed. To install them: {' '.join(command)}")
    if missing:
        print(f"holdover: installing Debian packages: {' '.join(missing)}", file=out, flush=True)
        _apt(["apt-get", "update"])
        _apt(command)
    try:
        guest_image()
    except ImageError as error:
        if not (
            may and agree("The guest's kernel needs Debian's list of packages. Fetch it (apt-get update)?")
        ):
            raise VmMissing(str(error)) from error
        print("holdover: fetching Debian's list of packages for the guest's kernel", file=out, flush=True)
        _apt(["apt-get", "update"])
        try:
            guest_image()
        except ImageError as again:
            raise VmMissing(str(again)) from again


def _apt(command: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VmMissing(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


async def perform_vm(migrate_pr: bool, watch: Callable[[Recording], None]) -> Act:
    """Play one act with two QEMUs.

    Raises:
        DemoFailed: A process failed, or the guest.
        MigrateFailed: The migration failed.
    """
    recording = Recording()
    image = guest_image()
    try:
        with TemporaryDirectory(prefix="holdover-demo-") as name:
            folder = Path(name)
            async with AsyncExitStack() as stack:
                set_up = await stack.enter_async_context(stage(folder, migrate_pr))
                intruder = await stack.enter_async_context(
                    started("intruder", "holdover.demo.intruder", folder=folder)
                )
                source = await stack.enter_async_context(_qemu(set_up, image, 0, None))
                console = await source.console()
                await console.wait_for(READY, _BOOT_SECONDS)
                recording.began = time.monotonic()
                play = _Play(set_up, image, recording, watch, source, console)
                sums = await play.run(intruder, stack)
    except (QemuError, ConsoleError) as error:
        raise DemoFailed(str(error)) from error
    return Act(migrate_pr, sums, recording)


def _qemu(set_up: DemoStage, image: GuestImage, host: int, incoming: str | None) -> QemuProcess:
    disk = IscsiDisk(
        portal=set_up.portals[host],
        target=export_iqn(GUEST),
        initiator="iqn.2026-11.org.holdover:demo-guest",
        user=GUEST,
        secret=set_up.secrets[host],
    )
    return QemuProcess.start(
        VirtualMachine(name=GUEST, kernel=image.kernel, initrd=image.initrd, disks=(disk,), incoming=incoming)
    )


@dataclass
class _Play:
    """One act while it is played."""

    set_up: DemoStage
    image: GuestImage
    recording: Recording
    watch: Callable[[Recording], None]
    source: QemuProcess
    console: Console
    _accepted: int = 0
    _refused: int = 0

    async def run(self, intruder: Child, stack: AsyncExitStack) -> Sums:
        recording = self.recording
        third = ProgressListener(intruder, recording, self.watch)
        stack.push_async_callback(third.end)
        persist = "sg_persist --out --no-inquiry"
        await self._shell(f"{persist} --register --param-sark={_KEY} --param-aptpl /dev/sda")
        await self._shell(f"{persist} --reserve --param-rk={_KEY} --prout-type=5 /dev/sda")
        await self._shell("workload start /dev/sda")
        intruder.order(Connect(self.set_up.lun))
        before = await self._holder()
        await self._write_for(_SECONDS)
        standstill = await self._migrate(stack)
        await self._holder()
        await self._write_for(_SECONDS)
        intruder.order(End())
        foreign = await third.report()
        counts = _counts(await self._shell("workload stop"))
        recording.ended = recording.now
        after = await self._holder()
        return Sums(
            guest_writes=counts["writes"],
            guest_write_errors=counts["write_errors"],
            intruder_writes_accepted=foreign.accepted,
            intruder_writes_refused=foreign.refused,
            holder_before=before,
            holder_after=after,
            standstill_ms=standstill,
            blocks_verified=counts["blocks_verified"],
            blocks_damaged=counts["mismatches"] + counts["read_errors"],
        )

    async def _migrate(self, stack: AsyncExitStack) -> float:
        uri = f"tcp:127.0.0.1:{free_port()}"
        destination = await stack.enter_async_context(_qemu(self.set_up, self.image, 1, uri))
        recording = self.recording

        def watch(recording: Recording) -> None:
            _, progress = recording.steps[-1]
            if progress.state == "done" and progress.action == COPY:
                recording.stopped = recording.now
            elif progress.state == "done" and progress.action == SWITCH_OVER:
                recording.resumed = recording.now
            self.watch(recording)

        async with orchestrator(self.set_up, recording, watch) as handover:
            outcome = await handover.run(
                Qemus(source=self.source.qmp_path, destination=destination.qmp_path, uri=uri, timeout=300)
            )
        await self.console.close()
        self.console = await destination.console()
        if outcome.standstill_ms is None:
            raise DemoFailed("QEMU did not say when the guest stopped and went on")
        return outcome.standstill_ms

    async def _write_for(self, seconds: float) -> None:
        """Let the guest write; read its counts now and then, and record them as ticks."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(_POLL)
            counts = _counts(await self._shell("workload report"))
            accepted, refused = counts["writes"] - self._accepted, counts["write_errors"] - self._refused
            self._accepted, self._refused = counts["writes"], counts["write_errors"]
            self.recording.ticks.append(Tick(time.monotonic(), "guest", accepted, refused))
            self.watch(self.recording)

    async def _holder(self) -> str | None:
        holder = await holder_of(self.set_up.lun)
        self.recording.holders.append((self.recording.now, holder))
        return holder

    async def _shell(self, command: str) -> str:
        result = await self.console.run(command)
        if result.status != 0:
            raise DemoFailed(f"in the guest, {command} ended with {result.status}:\n{result.output}")
        return result.output


def _counts(report: str) -> dict[str, int]:
    """The numbers in the guest's ``workload report``."""
    pairs = (line.partition("=") for line in report.splitlines())
    return {name: int(value) for name, _, value in pairs if value.isdecimal()}
