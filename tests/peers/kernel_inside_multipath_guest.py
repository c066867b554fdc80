"""Run inside a kernel of the rig: a real guest whose disk is a multipath device, by `holdover pr-helper`.

Writes what it sees to the file that is its first argument; the others are a kernel and an initrd, which it
boots, and the helpers: ours, qemu. What it should see is `test_kernel_multipath_guest`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from holdover.demo.machines.console import Console
from holdover.demo.machines.image import READY, GuestImage
from holdover.demo.machines.process import HostDisk, QemuProcess, VirtualMachine
from tests.peers.kernel_inside_multipath import Scene, registrants
from tests.rig.guest_commands import KEYS, RESERVATION, WRITE, reserve
from tests.rig.kernel_multipath import DEVICE, await_true
from tests.rig.kernel_programs import start_program
from tests.rig.serial_line import said

_HELPERS = {
    "ours": [sys.executable, "-m", "holdover", "pr-helper", "-q", "-k"],
    "qemu": ["qemu-pr-helper", "-k"],
}
_PERSIST = "sg_persist -n --out"


async def run(console: Console, command: str) -> str:
    """A command in the guest: what it has written, after its status where that is not 0."""
    return said(await console.run(command, timeout=600))


async def through(scene: Scene, helper: Path, image: GuestImage) -> dict[str, Any]:
    """The guest reserves and writes, with all paths and with each of them away."""
    disk = HostDisk(device=Path(DEVICE), helper=helper)
    machine = VirtualMachine(name="db1", kernel=image.kernel, initrd=image.initrd, disks=(disk,), memory=80)
    qemu = QemuProcess.start(machine)
    console = await qemu.console()
    await console.wait_for(READY, 240.0)
    found: dict[str, Any] = {
        "register": await run(console, f"{_PERSIST} --register --param-sark=0xa /dev/sda"),
        "reserve": await run(console, reserve(0xA, 5)),
        "registrants": registrants(),
        "keys": await run(console, KEYS),
        "reservation": await run(console, RESERVATION),
        "wrong key": await run(console, f"{_PERSIST} --register --param-rk=0xbad --param-sark=1 /dev/sda"),
        "writes": [await run(console, WRITE)],
    }
    for disk_name in ("sda", "sdb"):
        await asyncio.to_thread(scene.path_goes, disk_name)
        found["writes"].append(await run(console, WRITE))
        await asyncio.to_thread(scene.path_comes, disk_name)
    await console.close()
    await qemu.end()
    return found


def main(image: GuestImage, helpers: list[str]) -> dict[str, Any]:
    scene = Scene()
    found = {}
    for name in helpers:
        socket = Path(f"/run/{name}.sock")
        helper = start_program([*_HELPERS[name], str(socket)])
        await_true(socket.exists)
        scene.clear()
        found[name] = asyncio.run(through(scene, socket, image))
        helper.terminate()
        helper.wait(600)
    scene.shell.close()
    return found


if __name__ == "__main__":
    result, kernel, initrd = map(Path, sys.argv[1:4])
    result.write_text(json.dumps(main(GuestImage(kernel, initrd), sys.argv[4:])))
