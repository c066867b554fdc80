"""Run inside a kernel of the rig: processes that say they are somebody else's guest.

/dev/sda and /dev/sdb are two LUNs, which everybody may open. Writes what it sees to the file that is its
argument; what it should see is `tests.security.test_names`' to say.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig
from holdover.journal.memory import MemoryJournal
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.reservation.reservation_out import in_command, out_command
from tests.peers.pretended_qemu import Qemu, pretending

KEY = 0x600D
NOBODY = 65534
QEMU_UID = 107
READ_KEYS = in_command(InServiceAction.READ_KEYS, 256)
REGISTER = out_command(OutServiceAction.REGISTER, 0, KEY)
UNREGISTER = out_command(OutServiceAction.REGISTER, KEY, 0)
MOVES_ITSELF = ("-M", "q35", "-device", "scsi-block,drive=d,migrate-pr=on")
FILE = """
name = "host"
initiator = "iqn.2026-11.org.example:host"
state-dir = "{folder}/state"
[api]
listen = "unix:{folder}/api.sock"
[helper]
socket = "{folder}/all.sock"
mode = "0666"
[[rule]]
migrate-pr = "on"
[[guest]]
name = "listed"
machine = "pc-q35-7.2"
[[guest]]
name = "boxed"
machine = "pc-q35-7.2"
helper = "{folder}/boxed.sock"
{more}
"""
RULE = """
[[rule]]
guest = "victim"
uid = 65534
"""


class Site:
    """The agent, and clients that pretend to be QEMU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = MemoryJournal()
        folder.chmod(0o755)
        for disk in ("/dev/sda", "/dev/sdb"):
            Path(disk).chmod(0o666)
        self.host = Host(self._config(), journal=self.journal)

    def _config(self, more: str = "") -> AgentConfig:
        text = FILE.format(folder=self.folder, more=more)
        return msgspec.toml.decode(text, type=AgentConfig)

    async def restart(self) -> None:
        """The agent ends, and another one goes on from its journal."""
        await self.host.close()
        self.host = Host(self._config(), journal=self.journal)
        await self.host.start()

    def accept(self, rule: str) -> None:
        """The operator writes a rule into the agent's file, and reloads it."""
        self.host.reconfigure(self._config(rule))

    @asynccontextmanager
    async def qemu(
        self, name: str, *disks: str, user: int = QEMU_UID, options: tuple[str, ...] = ()
    ) -> AsyncGenerator[Qemu, None]:
        options = ("-name", name, *(options or ("-machine", "pc-q35-7.2")))
        async with pretending(self.folder / "all.sock", *disks, options=options, user=user) as qemu:
            yield qemu

    async def settle(self) -> None:
        """The agent has seen who connected, and who ended."""
        await asyncio.sleep(0.7)

    def keys(self, name: str) -> list[int]:
        """What a guest is tracked to have registered; empty where there is no such guest."""
        guest = self.host.guests.get(name)
        return [] if guest is None else [each.tracked.key for each in guest.devices]

    def recorded(self, name: str) -> list[str]:
        """The disks of a guest that are on record."""
        return [each.drive for each in self.journal.load().devices if each.guest == name]


async def erasure(site: Site) -> dict[str, Any]:
    """A process without any disk says that it is a guest that holds something, and moves it itself."""
    async with site.qemu("victim", "/dev/sda") as victim:
        register = await victim.say(REGISTER)
    await site.settle()
    async with site.qemu("victim", user=NOBODY, options=MOVES_ITSELF):
        await site.settle()
    await site.settle()
    return {"register": register, "keys": site.keys("victim"), "recorded": site.recorded("victim")}


async def impersonation(site: Site) -> dict[str, Any]:
    """Somebody else, with a disk that everybody may open, goes on as the guest."""
    async with site.qemu("victim", "/dev/sda", user=NOBODY) as other:
        said = await other.say(UNREGISTER)
        seen: dict[str, Any] = {"said": said, "keys": site.keys("victim")}
        seen["warnings"] = list(site.host.state().warnings)
    async with site.qemu("victim", "/dev/sda") as victim:
        seen["victim"] = await victim.say(READ_KEYS)
    site.accept(RULE)
    async with site.qemu("victim", "/dev/sda", user=NOBODY) as other:
        seen["accepted by rule"] = await other.say(READ_KEYS)
    await site.restart()
    async with site.qemu("victim", "/dev/sda", user=NOBODY) as other:
        seen["on record since"] = await other.say(UNREGISTER)
    await site.settle()
    return seen


async def squatting(site: Site) -> dict[str, Any]:
    """A process without a disk has a guest's name first, and another one a disk of its own."""
    seen: dict[str, Any] = {}
    for name in ("listed", "unlisted"):
        async with site.qemu(name, user=NOBODY):
            await site.settle()
            async with site.qemu(name, "/dev/sda") as owner:
                seen[name] = [await owner.say(READ_KEYS), await owner.say(REGISTER)]
                async with site.qemu(name, "/dev/sdb", user=NOBODY) as late:
                    seen[f"{name}, late"] = await late.say(READ_KEYS)
                seen[f"{name}, after"] = [await owner.say(UNREGISTER), site.keys(name)]
        await site.settle()
    async with site.qemu("boxed", "/dev/sda", user=NOBODY) as other:
        seen["boxed"] = await other.say(READ_KEYS)
    seen["warnings"] = list(site.host.state().warnings)
    return seen


async def left_to_qemu(site: Site) -> dict[str, Any]:
    """A guest that holds something is started with a QEMU that moves it itself: nothing is forgotten."""
    seen: dict[str, Any] = {}
    async with site.qemu("changes", "/dev/sda") as qemu:
        seen["register"] = await qemu.say(REGISTER)
    await site.settle()
    async with site.qemu("changes", "/dev/sda", options=MOVES_ITSELF) as qemu:
        seen["read"] = await qemu.say(READ_KEYS)
        seen["gates"] = [each.gate for each in site.host.guests["changes"].state().devices]
    await site.settle()
    seen["keys"] = site.keys("changes")
    async with site.qemu("changes", "/dev/sda") as qemu:
        seen["unregister"] = await qemu.say(UNREGISTER)
    await site.settle()
    seen["forgotten"] = "changes" not in site.host.guests
    return seen


async def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/run") as name:
        site = Site(Path(name))
        await site.host.start()
        try:
            return {
                "erasure": await erasure(site),
                "impersonation": await impersonation(site),
                "squatting": await squatting(site),
                "left to QEMU": await left_to_qemu(site),
            }
        finally:
            await site.host.close()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(main())))
