"""Run inside a kernel of the rig: descriptors that allow less than the agent itself may do.

/dev/sda is a LUN with a partition, and with a linear device-mapper device on it. Writes what it sees to the
file that is its argument; what it should see is `tests.security.test_descriptors`' to say.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from structlog.testing import capture_logs

from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig
from holdover.paths.sgio import OpenDevice, carry_out
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.path import PathError
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import describe_response, is_unit_attention
from tests.peers.pretended_qemu import Qemu, pretending
from tests.rig.kernel_init import load_module

KEY = 0xBAD
OTHER_KEY = 0x600D
NOBODY = 65534
READ_KEYS = in_command(InServiceAction.READ_KEYS, 256)
REGISTER = out_command(OutServiceAction.REGISTER, 0, KEY)
FILE = """
name = "host"
initiator = "iqn.2026-11.org.example:host"
[api]
listen = "unix:{folder}/api.sock"
[helper]
socket = "{folder}/all.sock"
mode = "0666"
[[rule]]
guest = "*"
migrate-pr = "on"
"""
_REREAD_PARTITIONS = 0x125F
_SECTOR = 512


def answer(command: Command, name: str = "/dev/sdb") -> Response:
    """The LUN's answer to the host itself, by one of its nexuses."""
    with open(name, "r+b", buffering=0) as disk:
        while True:
            response = carry_out(OpenDevice.of(disk.fileno(), name), command, name, 20)
            if not is_unit_attention(response):
                assert response.good
                return response


def keys() -> ReadKeys:
    """What is registered on the LUN."""
    return ReadKeys.decode(answer(READ_KEYS).data_in)


def make_parts() -> None:
    """A partition, /dev/sda1, and a linear device-mapper device, /dev/dm-0."""
    entry = bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
    with open("/dev/sda", "r+b", buffering=0) as disk:
        disk.write((bytes(446) + entry).ljust(_SECTOR - 2, b"\0") + b"\x55\xaa")
        fcntl.ioctl(disk.fileno(), _REREAD_PARTITIONS)
    modules = next(Path("/usr/lib/uml/modules").glob("*/kernel"))
    load_module(modules / "drivers/md/dm-mod.ko")
    command = ["dmsetup", "create", "--noudevsync", "--noudevrules", "-u", "LVM-abc", "vg-volume"]
    subprocess.run([*command, "--table", "0 4096 linear /dev/sda 8192"], check=True)


class Site:
    """The agent, and clients that pretend to be QEMU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        self._attackers = 0
        self.host = Host(msgspec.toml.decode(FILE.format(folder=folder), type=AgentConfig))

    @asynccontextmanager
    async def qemu(self, name: str, *disks: str, user: int = 0) -> AsyncGenerator[Qemu, None]:
        async with pretending(self.folder / "all.sock", *disks, options=("-name", name), user=user) as qemu:
            yield qemu

    async def attack(self, disk: str, *commands: Command, user: int = 0) -> dict[str, Any]:
        """What a client is told, and what it changed on the LUN."""
        before = keys()
        # a name for each attacker: the agent may not have noticed yet that the last one has ended
        self._attackers += 1
        name = f"attacker-{self._attackers}"
        async with self.qemu(name, disk, user=user) as qemu:
            said = [await qemu.say(each) for each in commands]
            guest = self.host.guests.get(name)  # a process without a disk may have no guest yet
            devices = [[each.name, each.tracked.key] for each in guest.devices] if guest else []
        after = keys()
        moved = after.generation - before.generation
        return {"said": said, "moved": moved, "keys": list(after.keys), "devices": devices}


def refusal(disk: str) -> str:
    """What the helper that stands alone, and `holdover pr`, say of a disk."""
    try:
        with open(disk, "r+b", buffering=0) as file:
            return describe_response(carry_out(OpenDevice.of(file.fileno(), disk), REGISTER, disk, 20))
    except PathError as error:
        return str(error)


async def observe(site: Site) -> dict[str, Any]:
    # somebody else's registration by the same nexus: a probe finds it, and counts
    answer(out_command(OutServiceAction.REGISTER, 0, OTHER_KEY), "/dev/sda")
    read = await site.attack("read:/dev/sda", READ_KEYS, REGISTER)
    answer(out_command(OutServiceAction.REGISTER, OTHER_KEY, 0), "/dev/sda")
    seen: dict[str, Any] = {
        "read": read,
        "path": await site.attack("path:/dev/sda", READ_KEYS, REGISTER, user=NOBODY),
        "partition": await site.attack("/dev/sda1", READ_KEYS, REGISTER),
        "volume": await site.attack("/dev/dm-0", READ_KEYS, REGISTER),
        "refusals": {disk: refusal(disk) for disk in ("/dev/sda1", "/dev/dm-0")},
    }
    async with site.qemu("later", "read:/dev/sda", "/dev/sda") as qemu:
        seen["first for reading"] = [await qemu.say(READ_KEYS), await qemu.say(REGISTER, 0)]
        seen["then for writing"] = [await qemu.say(REGISTER, 1), await qemu.say(READ_KEYS, 0)]
        seen["keys"] = list(keys().keys)
        seen["tracked"] = [each.tracked.key for each in site.host.guests["later"].devices]
    return seen


async def main() -> dict[str, Any]:
    make_parts()
    with tempfile.TemporaryDirectory(dir="/run") as name, capture_logs() as log:
        site = Site(Path(name))
        await site.host.start()
        try:
            seen = await observe(site)
        finally:
            await site.host.close()
    return {**seen, "log": [str(each) for each in log]}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(main())))
