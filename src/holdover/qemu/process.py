"""QEMU processes for the demonstration and the tests: a small guest, its disks over iSCSI, its sockets.

Nothing here is needed to migrate a guest that somebody else runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from holdover.qemu.console import Console
from holdover.qemu.monitor import Monitor, QemuError

__all__ = ["QEMU_PACKAGES", "HostDisk", "IscsiDisk", "QemuProcess", "VirtualMachine", "missing_qemu_packages"]

_PROGRAM = "qemu-system-x86_64"
QEMU_PACKAGES = ("qemu-system-x86", "qemu-block-extra")
"""The Debian packages of the program, and of its iSCSI driver."""

_END_TIMEOUT = 5.0


def missing_qemu_packages() -> list[str]:
    """The Debian packages without which no QEMU with disks over iSCSI can be started here."""
    if shutil.which(_PROGRAM) is None:
        return list(QEMU_PACKAGES)
    # Whether the driver is there, built in or as a module, only QEMU knows. Nobody listens at port 1.
    disk = IscsiDisk(portal="127.0.0.1:1", target="iqn.2026-11.org.holdover:none", initiator="")
    arguments = [
        _PROGRAM,
        "-machine",
        "none",
        "-nodefaults",
        "-display",
        "none",
        "-blockdev",
        disk.blockdev("x"),
    ]
    tried = subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return ["qemu-block-extra"] if "Unknown driver" in tried.stderr else []


@dataclass(frozen=True, slots=True, kw_only=True)
class IscsiDisk:
    """A logical unit that QEMU passes through to the guest by `scsi-block`.

    Attributes:
        portal: HOST:PORT of the target.
        target: The target's iSCSI name.
        initiator: The name by which QEMU logs in.
        lun: The logical unit number.
    """

    portal: str
    target: str
    initiator: str
    lun: int = 0

    def blockdev(self, node: str) -> str:
        """The argument of QEMU's `-blockdev` that logs in to it and calls it `node`."""
        options = f"transport=tcp,portal={self.portal},target={self.target},lun={self.lun}"
        return f"driver=iscsi,{options},initiator-name={self.initiator},node-name={node}"

    def objects(self, node: str) -> list[str]:  # noqa: ARG002 - the same for every kind of disk
        """What QEMU needs beside it: nothing."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDisk:
    """A SCSI disk of this host that QEMU passes through by `scsi-block`, its reservations by a helper.

    Attributes:
        device: Its name, /dev/sdX.
        helper: The socket of the persistent reservation helper.
    """

    device: Path
    helper: Path

    def blockdev(self, node: str) -> str:
        """The argument of QEMU's `-blockdev` that opens it and calls it `node`."""
        return (
            f"driver=host_device,filename={self.device},cache.direct=on,pr-manager={node}-pr,node-name={node}"
        )

    def objects(self, node: str) -> list[str]:
        """The arguments that make the helper's client for `node`."""
        return ["-object", f"pr-manager-helper,id={node}-pr,path={self.helper}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualMachine:
    """What QEMU is to run. Two that differ in `incoming` and in the disks' portals alone can migrate.

    Attributes:
        name: The guest's name.
        kernel: Linux to boot, with `initrd`; None leaves the firmware alone, which runs as well.
        disks: Given to the guest in this order as /dev/sda, /dev/sdb, ...
        machine: The machine type.
        memory: MiB.
        incoming: Where to wait for a migration, as QEMU spells it ("tcp:127.0.0.1:4444"); None boots.
        stopped: Whether the guest waits to be told to run (`-S`).
        disk_options: More properties of each `scsi-block` ("migrate-pr=on").
        program: How another QEMU than the installed one is called.
    """

    name: str
    kernel: Path | None = None
    initrd: Path | None = None
    disks: tuple[IscsiDisk | HostDisk, ...] = ()
    machine: str = "pc"
    memory: int = 96
    incoming: str | None = None
    stopped: bool = False
    disk_options: tuple[str, ...] = ()
    program: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """QEMU's arguments, all but those for the sockets."""
        # Software emulation: the same everywhere, nested virtualisation included.
        arguments = ["-name", self.name, "-machine", self.machine, "-accel", "tcg", "-cpu", "qemu64"]
        arguments += [
            "-m",
            str(self.memory),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]
        if self.kernel is not None:
            arguments += ["-kernel", str(self.kernel), "-append", "console=ttyS0 quiet panic=-1"]
        if self.initrd is not None:
            arguments += ["-initrd", str(self.initrd)]
        if self.disks:
            arguments += ["-device", "virtio-scsi-pci,id=scsi0"]
        for number, disk in enumerate(self.disks):
            arguments += disk.objects(f"drive{number}")
            arguments += ["-blockdev", disk.blockdev(f"drive{number}")]
            device = f"scsi-block,id=disk{number},drive=drive{number},scsi-id={number}"
            arguments += ["-device", ",".join([device, *self.disk_options])]
        if self.incoming is not None:
            arguments += ["-incoming", self.incoming]
        if self.stopped:
            arguments.append("-S")
        return arguments


class QemuProcess:
    """A running QEMU, made by `start`; leave it by `end`, or use it as an async context manager.

    Attributes:
        machine: What it runs.
        qmp_path: Its monitor socket.
        console_path: The socket of the guest's serial console.
    """

    def __init__(self, machine: VirtualMachine, folder: Path, process: subprocess.Popen[bytes]) -> None:
        """For `start`, which is the way to one of these."""
        self.machine = machine
        self.qmp_path = folder / "qmp.sock"
        self.console_path = folder / "console.sock"
        self._folder = folder
        self._process = process

    @classmethod
    def start(cls, machine: VirtualMachine) -> Self:
        """Start QEMU. Its sockets take connections from this moment on. Raises QemuError without a QEMU.

        It ends when the thread that called this ends, however that comes about.
        """
        program = machine.program or (_PROGRAM,)
        if shutil.which(program[0]) is None:
            raise QemuError(f"{program[0]} not found; install the Debian packages {' '.join(QEMU_PACKAGES)}")
        # A folder of its own with a short name: the path of a unix socket has 107 bytes at most.
        folder = Path(tempfile.mkdtemp(prefix="holdover-qemu-"))
        with contextlib.ExitStack() as stack:
            # setpriv (util-linux): so that a QEMU does not outlive a parent that was killed
            arguments = ["setpriv", "--pdeathsig", "KILL", *program, *machine.arguments()]
            listeners = []
            for name, log in (("qmp", ""), ("console", f",logfile={folder / 'console.log'}")):
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(folder / f"{name}.sock"))
                listener.listen()
                listeners.append(listener.fileno())
                arguments += ["-chardev", f"socket,id={name},fd={listener.fileno()},server=on,wait=off{log}"]
            arguments += ["-mon", "chardev=qmp,mode=control", "-serial", "chardev:console"]
            errors = stack.enter_context((folder / "stderr").open("wb"))
            process = subprocess.Popen(
                arguments, pass_fds=listeners, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
        return cls(machine, folder, process)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process still is one."""
        return self._process.poll() is None

    @property
    def errors(self) -> str:
        """What QEMU has written to its standard output and error so far."""
        return (self._folder / "stderr").read_text(errors="replace")

    @property
    def console_log(self) -> str:
        """What the guest has written to its console here so far, whether or not anybody was connected."""
        log = self._folder / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    async def monitor(self) -> Monitor:
        """Connect to the monitor. Raises QemuError with what QEMU wrote, where it has ended."""
        try:
            return await Monitor.connect(self.qmp_path, f"QEMU of {self.machine.name}")
        except QemuError as error:
            raise QemuError(f"{error}\n{self.errors}".rstrip()) from error

    async def console(self) -> Console:
        """Connect to the guest's serial console."""
        return await Console.connect(self.console_path)

    async def wait(self) -> int:
        """Wait until the process ends by itself; gives its exit status, negative for a signal."""
        return await asyncio.to_thread(self._process.wait)

    async def end(self) -> None:
        """End the process if it still runs, by force where it does not listen, and remove its folder."""
        if self.running:
            self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, _END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()
