"""Run inside a kernel of the rig: processes that no file names, at the helper front end of an agent.

/dev/sda and /dev/sdb are one LUN through two nexuses. Writes what it sees to the file that is its argument;
what it should see is `test_kernel_attach`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from structlog.testing import capture_logs

from holdover.agent.attach.expected_guest import ExpectedDevice, ExpectError
from holdover.agent.handover.handovers import HandoverProblem
from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig
from holdover.guest.gate import Gate
from holdover.journal.memory import MemoryJournal
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.reservation.reservation_in import Capabilities
from holdover.scsi.reservation.reservation_out import in_command, out_command
from tests.peers.pretended_qemu import Qemu, pretending

LUN = "naa.600140500000001f00d0000000000000"
OTHER_LUN = "naa.600140500000001f00d0000000000099"
KEY = 0x600D
READ_KEYS = in_command(InServiceAction.READ_KEYS, 256)
UUID = "11111111-2222-3333-4444-55555555555{}"
FILE = """
name = "host"
initiator = "iqn.2026-11.org.example:host"
state-dir = "{folder}/state"
[api]
listen = "unix:{folder}/api.sock"
[helper]
socket = "{folder}/all.sock"
[[rule]]
guest = "win-*"
migrate-pr = "off"
[[rule]]
lun = "NAA.6001405*"
migrate-pr = "on"
[[guest]]
name = "boxed"
machine = "pc-q35-7.2"
helper = "{folder}/boxed.sock"
[limits]
step = 3
"""


class Site:
    """The agent, and what is to be seen of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._config = msgspec.toml.decode(FILE.format(folder=folder), type=AgentConfig)
        self._journal = MemoryJournal()
        self.host = Host(self._config, journal=self._journal)

    async def restart(self) -> None:
        """The agent ends, and another one goes on from its journal."""
        await self.host.close()
        self.host = Host(self._config, journal=self._journal)
        await self.host.start()

    @asynccontextmanager
    async def qemu(
        self, *options: str, disks: tuple[str, ...] = ("sda",), socket: str = "all"
    ) -> AsyncGenerator[Qemu, None]:
        paths = (f"/dev/{disk}" for disk in disks)
        async with pretending(self.folder / f"{socket}.sock", *paths, options=options) as qemu:
            yield qemu

    def guests(self) -> dict[str, list[Any]]:
        """Of each guest its devices: disk, gate, migrate-pr and key."""
        return {
            guest.name: [
                [each.drive, each.gate, each.migrate_pr, int(each.key or "0", 16), each.stale]
                for each in guest.devices
            ]
            for guest in self.host.state().guests
        }

    async def open_disks(self, wanted: list[str]) -> list[str]:
        """The disks that the agent has open, once they are those that are wanted, or after a while."""
        for _ in range(100):
            found = _open_disks()
            if found == wanted:
                break
            await asyncio.sleep(0.1)
        return found


def _open_disks() -> list[str]:
    links = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return sorted(link for link in links if link.startswith("/dev/sd"))


async def restarts(site: Site) -> dict[str, Any]:
    """A guest that registers, and its next processes."""
    seen: dict[str, Any] = {}
    names = ("-name", "guest=db1,debug-threads=on", "-uuid", UUID.format(1), "-machine", "pc-i440fx-7.2")
    async with site.qemu(*names, disks=("sda", "sdb")) as first:
        capabilities = await first.run(in_command(InServiceAction.REPORT_CAPABILITIES, 256))
        seen["masked"] = not Capabilities.decode(capabilities.data_in).sip_c
        seen["register"] = await first.say(out_command(OutServiceAction.REGISTER, 0, KEY, aptpl=True))
        kind = ReservationType.WRITE_EXCLUSIVE
        seen["reserve"] = await first.say(out_command(OutServiceAction.RESERVE, KEY, type=kind))
        seen["guests"] = site.guests()
        seen["open"] = await site.open_disks(["/dev/sda"])
        seen["twice"] = await first.say(READ_KEYS, 1)
        async with site.qemu(*names) as second:
            seen["another process"] = await second.say(READ_KEYS)
    seen["open after"] = await site.open_disks([])
    seen["remembered"] = site.guests()
    await site.restart()
    seen["on record"] = site.guests()
    async with site.qemu("-name", "db1", "-uuid", UUID.format(2)) as stranger:
        seen["same name, other UUID"] = await stranger.say(READ_KEYS)
    async with site.qemu(*names, disks=("sdb",)) as moved:
        seen["other nexus"] = await moved.say(READ_KEYS)
    await asyncio.sleep(0.3)
    async with site.qemu(*names) as again:
        seen["again"] = await again.say(READ_KEYS)
        seen["remembered again"] = site.guests()
        seen["unregister"] = await again.say(out_command(OutServiceAction.REGISTER, KEY, 0))
    seen["closed"] = await site.open_disks([])
    seen["forgotten"] = site.guests()
    return seen


async def rules(site: Site) -> dict[str, Any]:
    async with site.qemu("-name", "win-7", "-machine", "pc-q35-11.0") as qemu:
        capabilities = await qemu.run(in_command(InServiceAction.REPORT_CAPABILITIES, 256))
        seen = {
            "win-7": site.guests()["win-7"],
            "masked": not Capabilities.decode(capabilities.data_in).sip_c,
        }
    async with site.qemu() as qemu:
        seen["nameless"] = await qemu.say(READ_KEYS)
    async with site.qemu(socket="boxed") as qemu:
        seen["own socket"] = await qemu.say(READ_KEYS)
        seen["boxed"] = site.guests()["boxed"]
    return seen


async def left_to_qemu(site: Site) -> dict[str, Any]:
    async with site.qemu("-name", "new", "-M", "q35", "-device", "scsi-block,drive=d,migrate-pr=on") as qemu:
        capabilities = await qemu.run(in_command(InServiceAction.REPORT_CAPABILITIES, 256))
        seen: dict[str, Any] = {
            "masked": not Capabilities.decode(capabilities.data_in).sip_c,
            "register": await qemu.say(out_command(OutServiceAction.REGISTER, 0, KEY)),
            "guests": site.guests()["new"],
        }
        try:
            await site.host.handovers.prepare("new", "h", "host-b")
        except HandoverProblem as error:
            seen["leave"] = str(error)
        try:
            await site.host.expect("new", "q35", [ExpectedDevice(LUN, True)])
        except ExpectError as error:
            seen["expect"] = str(error)
        await qemu.say(out_command(OutServiceAction.REGISTER, KEY, 0))
    await asyncio.sleep(0.3)
    seen["after"] = sorted(site.guests())
    return seen


async def arrivals(site: Site) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    async def expect(*luns: str) -> str:
        try:
            guest = await site.host.expect("db2", "pc-q35-7.2", [ExpectedDevice(lun, True) for lun in luns])
        except ExpectError as error:
            return str(error)
        return "expected" if guest is site.host.guests["db2"] else "another"

    seen["no QEMU yet"] = await expect(LUN)
    seen["nothing was made"] = sorted(site.guests())
    async with site.qemu("-name", "db2", "-incoming", "defer", disks=("sdb",)) as qemu:
        await asyncio.sleep(0.5)
        seen["connected"] = site.guests()
        seen["no such LUN"] = await expect(LUN, OTHER_LUN)
        seen["no device"] = site.guests()["db2"]
        seen["expected"] = await expect(LUN)
        seen["guests"] = site.guests()["db2"]
        seen["once more"] = await expect(LUN)
        sent = asyncio.ensure_future(qemu.say(READ_KEYS))
        # longer than a guest that nobody expects would wait
        done, _ = await asyncio.wait([sent], timeout=5)
        seen["held"] = not done
        for device in site.host.guests["db2"].devices:
            device.move_gate(Gate.RUNNING)
        seen["answer"] = await sent
        seen["open"] = await site.open_disks(["/dev/sdb"])
    seen["closed"] = await site.open_disks([])
    async with site.qemu("-name", "db3", "-incoming", "defer") as qemu:
        sent = asyncio.ensure_future(qemu.say(READ_KEYS))
        done, _ = await asyncio.wait([sent], timeout=1.5)
        seen["unannounced"] = {"held": not done, "before": site.guests()["db3"], "answer": await sent}
        await asyncio.sleep(0.5)
        seen["unannounced"]["after"] = site.guests()["db3"]
    return seen


async def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/run") as name:
        site = Site(Path(name))
        await site.host.start()
        try:
            with capture_logs() as log:
                seen = await observe(site)
            refusals = [each for each in log if each["event"] == "A command through the helper was refused."]
            return {**seen, "refused": [each["reason"] for each in refusals]}
        finally:
            await site.host.close()


async def observe(site: Site) -> dict[str, Any]:
    return {
        "restarts": await restarts(site),
        "rules": await rules(site),
        "left to QEMU": await left_to_qemu(site),
        "arrivals": await arrivals(site),
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(main())))
