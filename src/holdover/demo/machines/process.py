"""QEMU processes for the demonstration and the tests: a small guest, its disks over iSCSI, its sockets.

The migration of a guest of an operator does not need this module.
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

from holdover.demo.machines.console import Console
from holdover.qemu.monitor import QemuError, QemuMonitor

_PROGRAM = "qemu-system-x86_64"
QEMU_PACKAGES = ("qemu-system-x86", "qemu-block-extra")
"""The Debian packages of QEMU and of its iSCSI driver."""

_END_TIMEOUT = 5.0
_KERNEL_OPTIONS = "console=ttyS0 quiet panic=-1 no_timer_check"
"""Without no_timer_check the guest's kernel counts timer ticks as it boots, and panics where the host is too
busy to give them in time.
"""


def missing_qemu_packages() -> list[str]:
    """The Debian packages that this machine lacks to start a QEMU with disks over iSCSI."""
    if shutil.which(_PROGRAM) is None:
        return list(QEMU_PACKAGES)
    # Only QEMU knows whether it has the driver, built in or as a module. Nothing listens at port 1.
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
        initiator: The initiator name with which QEMU logs in.
        lun: The logical unit number.
        user: The CHAP user with which QEMU logs in; "" for a login without CHAP.
        secret: The file with the secret.
    """

    portal: str
    target: str
    initiator: str
    lun: int = 0
    user: str = ""
    secret: Path | None = None

    def blockdev(self, node: str) -> str:
        """The argument of QEMU's `-blockdev` that logs in to the logical unit and names it `node`."""
        options = f"transport=tcp,portal={self.portal},target={self.target},lun={self.lun}"
        if self.secret is not None:
            options += f",user={self.user},password-secret={node}-chap"
        return f"driver=iscsi,{options},initiator-name={self.initiator},node-name={node}"

    def objects(self, node: str) -> list[str]:
        """The arguments that make the secret for `node`."""
        return [] if self.secret is None else ["-object", f"secret,id={node}-chap,file={self.secret}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDisk:
    """A SCSI disk of this host that QEMU passes through by `scsi-block`; a helper serves its reservations.

    Attributes:
        device: The path of the disk, /dev/sdX.
        helper: The socket of the persistent reservation helper.
    """

    device: Path
    helper: Path

    def blockdev(self, node: str) -> str:
        """The argument of QEMU's `-blockdev` that opens the disk and names it `node`."""
        return (
            f"driver=host_device,filename={self.device},cache.direct=on,pr-manager={node}-pr,node-name={node}"
        )

    def objects(self, node: str) -> list[str]:
        """The arguments that create QEMU's client of the helper for `node`."""
        return ["-object", f"pr-manager-helper,id={node}-pr,path={self.helper}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualMachine:
    """The virtual machine that QEMU runs.

    A guest can migrate between two of these when they differ only in `incoming` and in the disks' portals.

    Attributes:
        name: The guest's name.
        kernel: The Linux kernel to boot, with `initrd`; with None only the firmware runs, which is enough for
            a migration.
        disks: The guest sees these disks in this order as /dev/sda, /dev/sdb, ...
        machine_type: The machine type.
        memory: The size of the memory in MiB.
        incoming: Where to wait for a migration, as QEMU writes it ("tcp:127.0.0.1:4444"); None boots.
        stopped: Whether the guest waits until QEMU is told to run it (`-S`).
        disk_options: More properties of each `scsi-block`, such as "migrate-pr=on".
        program: The command of another QEMU than the installed one.
    """

    name: str
    kernel: Path | None = None
    initrd: Path | None = None
    disks: tuple[IscsiDisk | HostDisk, ...] = ()
    machine_type: str = "pc"
    memory: int = 96
    incoming: str | None = None
    stopped: bool = False
    disk_options: tuple[str, ...] = ()
    program: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """QEMU's arguments, without those for the sockets."""
        # Software emulation works the same everywhere, also in a virtual machine.
        arguments = ["-name", self.name, "-machine", self.machine_type, "-accel", "tcg", "-cpu", "qemu64"]
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
            arguments += ["-kernel", str(self.kernel), "-append", _KERNEL_OPTIONS]
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
    """A running QEMU. `start` makes one; call `end`, or use it as an async context manager.

    Attributes:
        virtual_machine: The virtual machine that QEMU runs.
        qmp_path: Its monitor socket.
        console_path: The socket of the guest's serial console.
    """

    def __init__(self, machine: VirtualMachine, folder: Path, process: subprocess.Popen[bytes]) -> None:
        """Only `start` calls this."""
        self.virtual_machine = machine
        self.qmp_path = folder / "qmp.sock"
        self.console_path = folder / "console.sock"
        self._folder = folder
        self._process = process

    @classmethod
    def start(cls, machine: VirtualMachine) -> Self:
        """Start QEMU. Its sockets take connections at once. Raises QemuError when QEMU is not installed.

        QEMU ends when the thread that called this ends, for whatever reason.
        """
        program = machine.program or (_PROGRAM,)
        if shutil.which(program[0]) is None:
            raise QemuError(f"{program[0]} not found; install the Debian packages {' '.join(QEMU_PACKAGES)}")
        # The folder has a short name, because the path of a Unix socket has at most 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="holdover-qemu-"))
        with contextlib.ExitStack() as stack:
            # setpriv (util-linux) ends QEMU when its parent is killed.
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
        """The process id of QEMU."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def errors(self) -> str:
        """The text that QEMU has written to its standard output and standard error so far."""
        return (self._folder / "stderr").read_text(errors="replace")

    async def monitor(self) -> QemuMonitor:
        """Connect to the monitor. When QEMU has ended, raises QemuError with QEMU's output."""
        try:
            return await QemuMonitor.connect(self.qmp_path, f"QEMU of {self.virtual_machine.name}")
        except QemuError as error:
            raise QemuError(f"{error}\n{self.errors}".rstrip()) from error

    async def console(self) -> Console:
        """Connect to the guest's serial console."""
        return await Console.connect(self.console_path)

    async def wait(self) -> int:
        """Wait until the process ends by itself. Returns its exit status, which is negative for a signal."""
        return await asyncio.to_thread(self._process.wait)

    async def end(self) -> None:
        """End the process if it still runs, by force if it does not react, and remove its folder."""
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
