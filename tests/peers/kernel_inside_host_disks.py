"""Run inside a kernel of the rig: docs/how-to/host-disks.md as it is typed, on two hosts with a disk each.

Writes what it sees to the file that is its first argument; then come a kernel and an initrd for the guest.
What it should see is `test_kernel_host_disks`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from holdover.demo.machines.image import GuestImage
from holdover.paths.sgio import SgIo, SgioPath
from holdover.scsi.cdbs.cdb import Write
from holdover.scsi.command import Command
from holdover.scsi.sense import describe_response, is_unit_attention
from tests.docs.typist import DOCS, Typist, lines_of
from tests.peers.kernel_inside_libvirt import look
from tests.rig.guest_commands import WRITE, register, reserve, unregister
from tests.rig.hosts import Program, until
from tests.rig.kernel_site import HOSTS, LINK, THIRD, KernelSite, kernel_site
from tests.rig.serial_line import said, typed

KEY = 0x600D
_PAGE = "how-to/host-disks.md"
_DISK = "/dev/disk/by-id/wwn-0x600140500000000a"
_MONITOR, _CONSOLE = "/run/qemu/{}.qmp", "/run/{}.console"


def sections() -> tuple[str, str]:
    """The page's sections of an agent's file: of a guest that the file names, and of guests that it does not.

    The host's disk has another name than the page's, QEMU another user, and nothing here has cgroups.
    """
    text = (DOCS / _PAGE).read_text(encoding="utf-8").replace(_DISK, LINK)
    named, unnamed = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    helper = named.partition("[[guest]]")[0]
    monitor = re.search(r"^\[qmp\].*?(?=^\[\[)", unnamed, re.MULTILINE | re.DOTALL)
    assert monitor is not None
    here = re.sub(r"^cgroup .*\n", "", unnamed, flags=re.MULTILINE)
    assert here != unnamed
    assert "uid = 107" in here
    return monitor[0] + named, helper + here.replace("uid = 107", "uid = 0")


class Guest:
    """A guest whose QEMUs are started by the page's command line."""

    def __init__(self, site: KernelSite, name: str, image: GuestImage) -> None:
        self.site = site
        self.name = name
        self.image = image
        self.here, self.there = HOSTS
        self.qemus: list[Program] = []

    def start(self, host: str, *options: str) -> None:
        """Type the page's command; it names db1, and leaves out what every guest has."""
        (line,) = lines_of(_PAGE)
        names = {
            "...": " ".join((*self._options(), *options)),
            _DISK: LINK,
            "-name db1": f"-name {self.name}",
        }
        typist = Typist(Path("/run"), names, {}, host=self.site[host])
        self.site[host].run("mkdir", "-p", "/run/qemu")
        qemu = typist.begin(line)
        self.qemus.append(qemu)
        monitor = _MONITOR.format(self.name)
        until(lambda: not qemu.running or self.site[host].listens(monitor), f"{host}: QEMU does not start")
        assert qemu.running, qemu.output()

    def _options(self) -> tuple[str, ...]:
        return (
            "-machine pc-q35-7.2 -accel tcg -cpu qemu64 -m 96 -nodefaults -no-user-config -display none",
            f"-kernel {self.image.kernel} -initrd {self.image.initrd}",
            "-append 'console=ttyS0 quiet panic=-1 no_timer_check'",
            f"-serial unix:{_CONSOLE.format(self.name)},server=on,wait=off",
            f"-qmp unix:{_MONITOR.format(self.name)},server=on,wait=off",
        )

    def shell(self, command: str, *, boots: bool = False) -> str:
        """Run a command in the guest where it is; its output, after its status where that is not 0."""
        line = self.site[self.here].inside(_CONSOLE.format(self.name))
        return said(typed(line, command, boots=boots))

    def migrate(self) -> str:
        """`holdover migrate` as for an export; what it says if it fails."""
        self.start(self.there, "-incoming defer")
        done = self.site[self.here].holdover("migrate", self.name, "--to", self.there)
        if done.returncode == 0:
            self.here, self.there = self.there, self.here
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def seen(self) -> dict[str, Any]:
        """What the guest, the LUN and the agent of its host say."""
        return {
            "write": self.shell(WRITE),
            "third": asyncio.run(third_writes()),
            "status": self.site[self.here].must("status"),
            **asyncio.run(look()),
        }

    def end(self) -> None:
        """End its QEMUs, as when a host's power fails."""
        for name in HOSTS:
            self.site[name].run("pkill", "-KILL", "-f", f"^qemu-system-x86_64 -name {self.name} ")
        until(lambda: not any(qemu.running for qemu in self.qemus), f"the QEMUs of {self.name} do not end")


async def third_writes() -> str:
    """What the LUN answers to a write of a nexus that has registered nothing."""
    path, write = SgioPath(THIRD, SgIo(1)), Command(Write(8, 1, 10).encode(), bytes(512))
    while is_unit_attention(response := await path.execute(write)):
        pass
    await path.close()
    return describe_response(response)


def moves(guest: Guest) -> dict[str, Any]:
    """The guest boots, reserves and moves; then it gives up what it has."""
    guest.start(guest.here)
    guest.shell("true", boots=True)
    found: dict[str, Any] = {
        "register": guest.shell(register(KEY)),
        "reserve": guest.shell(reserve(KEY, 5)),
        "before": guest.seen(),
        "migrate": guest.migrate(),
        "after": guest.seen(),
        "leave": guest.shell(unregister(KEY)),
    }
    guest.end()
    return found


def main(image: GuestImage) -> dict[str, Any]:
    named, unnamed = sections()
    with kernel_site() as site:
        try:
            site.give_disks()
            for name in site.names:
                incoming = "" if name == next(iter(HOSTS)) else "incoming = true\n"
                site.configure(name, named + incoming)
                site.start_agent(name)
            observed = {"named": moves(Guest(site, "db1", image))}
            for name in site.names:
                site.agents[name].kill()
                site.configure(name, unnamed)
                site.start_agent(name)
            observed["unnamed"] = moves(Guest(site, "win-7", image))
        except BaseException:
            traceback.print_exc()
            for program in site.agents.values():
                print(f"--- {program.host}\n{program.output()}")
            raise
    return observed


if __name__ == "__main__":
    result, kernel, initrd = (Path(argument) for argument in sys.argv[1:4])
    result.write_text(json.dumps(main(GuestImage(kernel, initrd))))
