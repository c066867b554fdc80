"""Run inside a kernel of the rig: paths to a LUN over disks that come and go.

/dev/sda and /dev/sdb are two LUNs. Writes what it sees to the file that is its argument; what it should see
is `test_kernel_attach_disk`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from holdover.agent.attach.disks.disk import Disk, DiskPath
from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice, SgIo
from holdover.scsi.cdbs.cdb import TestUnitReady
from holdover.scsi.command import Command
from holdover.scsi.path import PathError
from holdover.scsi.sense import describe_response, is_unit_attention

_READY = Command(TestUnitReady().encode())
_IDLE = 0.3


def _open_disks() -> list[str]:
    links = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return sorted(link for link in links if link.startswith("/dev/sd"))


async def _says(path: DiskPath) -> list[str]:
    """How a command ends, and where it went."""
    try:
        response = await path.execute(_READY)
        while is_unit_attention(response):
            response = await path.execute(_READY)
    except PathError as error:
        return [str(error), path.name]
    return [describe_response(response), path.name]


async def main() -> dict[str, Any]:
    io = SgIo()
    disks = HostDisks(io)
    descriptor = os.open("/dev/sda", os.O_RDWR | os.O_NONBLOCK)
    try:
        opened = OpenDevice.of(descriptor, "/dev/sda")
        lun = await disks.designator_of(opened)
        first, second = (Disk.of(os.stat(disk)) for disk in ("/dev/sda", "/dev/sdb"))
        gone = Disk(first.kind, os.makedev(8, 240))

        def path(disk: Disk | None, *, certain: bool = True) -> DiskPath:
            return DiskPath(disk, lun, disks, io, certain=certain, idle=_IDLE)

        seen: dict[str, Any] = {
            "its disk": await _says(path(first)),
            "another LUN's disk": await _says(path(second)),
            "a disk that is gone": await _says(path(gone)),
            "looked for": await _says(path(None)),
            "uncertain, another LUN's": await _says(path(second, certain=False)),
            "uncertain, gone": await _says(path(gone, certain=False)),
        }
        await asyncio.sleep(3 * _IDLE)
        seen["closed when idle"] = _open_disks()
        held = path(second, certain=False)
        await held.hold(opened)
        seen["held"] = await _says(held)
        await asyncio.sleep(3 * _IDLE)
        seen["open while held"] = _open_disks()
        held.release()
        seen["closed when let go"] = _open_disks()
        seen["used after that"] = await _says(held)
        await held.close()
        return seen
    finally:
        os.close(descriptor)
        io.close()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(main())))
