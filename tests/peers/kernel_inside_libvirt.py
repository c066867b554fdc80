"""Run inside a kernel of the rig: libvirt moves a real guest on a real host disk between two hosts.

Writes what it sees to the file that is its first argument; then come a kernel and an initrd for the guest.
What it should see is `test_kernel_libvirt`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from holdover.demo.machines.image import GuestImage
from holdover.paths.sgio import SgIo, SgioPath
from holdover.scsi.cdbs.cdb import Write
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_in import Capabilities, FullStatus
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import describe_response, is_unit_attention
from tests.rig.guest_commands import RESERVATION, WRITE, WRITE_ON, register, release, reserve, unregister
from tests.rig.kernel_site import HOSTS, LINK, THIRD, KernelSite, kernel_site
from tests.rig.separate_libvirt import CONSOLE, SeparateLibvirt, host_disk
from tests.rig.separate_site import GUEST
from tests.rig.serial_line import said, typed

KEY = 0x600D
TYPES = (5, 1, 8)


class Intruder(threading.Thread):
    """A third initiator that registers nothing and tries to write; it counts the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: Counter[str] = Counter()
        self._ends = threading.Event()

    def run(self) -> None:
        asyncio.run(self._write())

    async def _write(self) -> None:
        path = SgioPath(THIRD, SgIo(1))
        while not self._ends.is_set():
            response = await path.execute(Command(Write(8, 1, 10).encode(), bytes(512)))
            if not is_unit_attention(response):
                self.answers[describe_response(response)] += 1
            await asyncio.sleep(0.1)
        await path.close()

    def end(self) -> dict[str, int]:
        self._ends.set()
        self.join()
        return dict(self.answers)


class Domain:
    """The domain where it is now."""

    def __init__(self, site: KernelSite, libvirt: SeparateLibvirt) -> None:
        self.site = site
        self.libvirt = libvirt
        self.here, self.there = HOSTS

    def define(self, image: GuestImage) -> dict[str, Any]:
        """Define it with QEMU's own helper, and then as `holdover libvirt xml` says."""
        host = self.site[self.here]
        self.libvirt.define(self.here, image, disk=host_disk(LINK))
        before = host.holdover("libvirt", "check", GUEST)
        self.libvirt.define_xml(self.here, host.must("libvirt", "xml", GUEST))
        after = host.holdover("libvirt", "check", GUEST)
        return {
            name: [line for line in (done.stdout + done.stderr).splitlines() if GUEST in line]
            for name, done in (("before", before), ("after", after))
        }

    def start(self) -> None:
        self.libvirt.must(self.here, "start", GUEST)
        self.shell("true", boots=True)

    def migrate(self) -> str:
        """`virsh migrate --live`; empty if it succeeds, else what it says."""
        done = self.libvirt.migrate(self.here, self.there)
        if done.returncode == 0:
            self.here, self.there = self.there, self.here
        return "" if done.returncode == 0 else done.stderr

    def shell(self, command: str, *, boots: bool = False) -> str:
        """Run a command in the guest; its output, after its status where that is not 0."""
        return said(typed(self.site[self.here].inside(CONSOLE), command, boots=boots))

    def seen(self) -> dict[str, Any]:
        """Where the guest runs, and what it and the LUN say of its reservation."""
        return {
            "here": self.here,
            "runs on": self.libvirt.runs_on(),
            "reservation": self.shell(RESERVATION),
            "write": self.shell(WRITE),
            **asyncio.run(look()),
        }


async def look() -> dict[str, Any]:
    """What the LUN says, as a third initiator asks it."""
    path = SgioPath(THIRD, SgIo(1))

    async def ask(action: InServiceAction) -> bytes:
        response = await path.execute(in_command(action))
        while is_unit_attention(response):
            response = await path.execute(in_command(action))
        return response.data_in

    status = FullStatus.decode(await ask(InServiceAction.READ_FULL_STATUS))
    capabilities = Capabilities.decode(await ask(InServiceAction.REPORT_CAPABILITIES))
    await path.close()
    return {
        "registrants": [
            [each.key, each.holder, each.type, str(each.transport_id)] for each in status.descriptors
        ],
        "aptpl": capabilities.ptpl_a,
    }


def moves(domain: Domain, kind: int) -> dict[str, Any]:
    """The guest reserves and writes, and goes there and back while an intruder tries."""
    began = time.monotonic()
    found: dict[str, Any] = {
        "register": domain.shell(register(KEY)),
        "reserve": domain.shell(reserve(KEY, kind)),
        "before": domain.seen(),
        "workload": domain.shell(WRITE_ON),
    }
    intruder = Intruder()
    intruder.start()
    try:
        found["there"] = domain.migrate()
        found["away"] = domain.seen()
        found["back"] = domain.migrate()
        found["home"] = domain.seen()
    finally:
        found["intruder"] = intruder.end()
    found["counts"] = domain.shell("workload stop")
    found["release"] = domain.shell(release(KEY, kind))
    found["leave"] = domain.shell(unregister(KEY))
    found["seconds"] = time.monotonic() - began
    return found


def main(image: GuestImage) -> dict[str, Any]:
    observed: dict[str, Any] = {}
    began = time.monotonic()
    with kernel_site() as site:
        libvirt = SeparateLibvirt(site)
        try:
            site.begin()
            print(f"{time.monotonic() - began:.1f} s: the agents run", flush=True)
            for name in site.names:
                libvirt.prepare(name, "lockd")
                libvirt.start_lock_server(name)
                libvirt.start_daemon(name)
                print(f"{time.monotonic() - began:.1f} s: {name} has libvirt", flush=True)
            domain = Domain(site, libvirt)
            observed["defined"] = domain.define(image)
            domain.start()
            print(f"{time.monotonic() - began:.1f} s: the guest has booted", flush=True)
            for kind in TYPES:
                observed[f"type {kind}"] = moves(domain, kind)
                print(f"{time.monotonic() - began:.1f} s: {observed[f'type {kind}']}", flush=True)
        except BaseException:
            traceback.print_exc()
            for program in (*site.agents.values(), *libvirt.lock_servers.values(), *libvirt.daemons.values()):
                print(f"--- {program.host}\n{program.output()}")
            raise
    return observed


if __name__ == "__main__":
    result, kernel, initrd = (Path(argument) for argument in sys.argv[1:4])
    result.write_text(json.dumps(main(GuestImage(kernel, initrd))))
