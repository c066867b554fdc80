"""Run inside a kernel of the rig: the kernel's own iSCSI initiator on an embedded LUN.

Writes what it sees to the file that is its argument; what it should see is `test_kernel_iscsi`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from holdover.iscsi.url import parse_iscsi_url
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.path import PathError
from holdover.scsi.reservation.reservation_in import FullStatus
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import is_unit_attention
from tests.rig.kernel_init import load_module
from tests.rig.kernel_programs import Shell, start_program

IQN = "iqn.2026-11.org.example:san"
PORT = "3260"
URL = f"iscsi://127.0.0.1:{PORT}/{IQN}/0"
OTHER = InitiatorIdentity("iqn.2026-11.org.example:other", isid_of("other"))
MODULES = ("scsi_transport_iscsi", "libiscsi", "libiscsi_tcp", "iscsi_tcp")
_PATIENCE = 600.0


class Disk:
    """The LUN as the kernel's disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shell = Shell()
        self.name = ""
        self.place = folder / "mounted"

    def run(self, *command: str) -> str:
        """What a program has written; its status before it where it is not 0."""
        said = self.folder / "said"
        status = self.shell.run(command, str(said))
        text = said.read_text(errors="replace")
        return text if status == 0 else f"status {status}: {text}"

    def log_in(self) -> str:
        before = disks()
        portal = ("-g", "1", "-a", "127.0.0.1", "-p", PORT)
        said = self.run("iscsistart", "-i", "iqn.2026-11.org.example:kernel", "-t", IQN, *portal)
        deadline = time.monotonic() + _PATIENCE
        while not (found := disks() - before):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no disk appeared: {said}")
            time.sleep(0.1)
        self.name = f"/dev/{found.pop()}"
        return said

    def use(self) -> dict[str, Any]:
        """A file system, a file in it, and the file again from the disk."""
        self.place.mkdir()
        content = os.urandom(3 << 20)
        answers = [
            self.run("mkfs.ext4", "-q", "-F", self.name),
            self.run("mount", self.name, str(self.place)),
        ]
        (self.place / "file").write_bytes(content)
        answers.append(self.run("umount", str(self.place)))
        Path("/proc/sys/vm/drop_caches").write_text("3")
        answers.append(self.run("fsck.ext4", "-f", "-n", self.name))
        answers.append(self.run("mount", "-o", "ro", self.name, str(self.place)))
        again = (self.place / "file").read_bytes()
        answers.append(self.run("umount", str(self.place)))
        same = hashlib.sha256(again).digest() == hashlib.sha256(content).digest()
        return {"answers": answers, "same": same, "bytes": len(again)}

    def write(self) -> str:
        return self.run("dd", "if=/dev/zero", f"of={self.name}", "bs=4096", "count=1", "oflag=direct")

    def read(self) -> str:
        return self.run("dd", f"if={self.name}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct")

    def take_away(self) -> None:
        """Else the kernel would wait minutes for the target when it is switched off."""
        if self.name:
            Path("/sys/block", Path(self.name).name, "device", "delete").write_text("1")


def other(command: Command) -> Response:
    """One command of another initiator of the LUN."""

    async def tell() -> Response:
        path = IscsiSessions().path(parse_iscsi_url(URL), OTHER)
        try:
            response = await path.execute(command)
            while is_unit_attention(response):
                response = await path.execute(command)
            return response
        finally:
            await path.close()

    return asyncio.run(tell())


def disks() -> set[str]:
    return {each.name for each in Path("/sys/block").glob("sd*")}


def main() -> dict[str, Any]:
    kernel = next(Path("/usr/lib/uml/modules").glob("*/kernel"))
    for module in MODULES:
        load_module(kernel / "drivers" / "scsi" / f"{module}.ko")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lun = f"file={folder / 'disk'},size=64M"
        command = [sys.executable, "-m", "holdover", "target", "--listen", f"127.0.0.1:{PORT}", "--iqn", IQN]
        target = start_program([*command, "--lun", lun])
        disk = Disk(folder)
        try:
            return look(disk)
        finally:
            disk.take_away()
            disk.shell.close()
            target.terminate()
            target.wait(600)


def look(disk: Disk) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(PathError):
            other(in_command(InServiceAction.READ_KEYS))
            break
        time.sleep(0.2)
    seen: dict[str, Any] = {"login": disk.log_in(), "inquiry": disk.run("sg_inq", disk.name), **disk.use()}
    kind = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    other(out_command(OutServiceAction.REGISTER, 0, 1))
    other(out_command(OutServiceAction.RESERVE, 1, type=kind))
    seen["shut out"] = {"write": disk.write(), "read": disk.read()}
    persist = ("sg_persist", "-n", "--out", disk.name)
    seen["register"] = disk.run(*persist, "--register", "--param-sark=0xabc")
    seen["registered"] = {"write": disk.write()}
    status = FullStatus.decode(other(in_command(InServiceAction.READ_FULL_STATUS)).data_in)
    seen["registrants"] = {str(each.transport_id): each.holder for each in status.descriptors}
    other(out_command(OutServiceAction.PREEMPT, 1, 0xABC, type=kind))
    seen["preempted"] = {"write": disk.write(), "again": disk.write()}
    return seen


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(main()))
