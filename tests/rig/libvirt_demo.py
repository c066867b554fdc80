"""`make demo-libvirt`: an unmodified `virsh migrate --live` between two separate hosts, and an intruder.

The hosts are those of the tests: network, processes and folders of their own, a libvirtd and an agent each.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.rig.intruder import intruder
from tests.rig.libvirt_machine import Machine, libvirt_site
from tests.rig.packages import installed
from tests.rig.separate_site import GUEST

PACKAGES = (
    *("iproute2", "nftables", "util-linux", "qemu-system-x86", "qemu-block-extra"),
    *("libvirt-daemon-system", "libvirt-clients"),
)


def main() -> int:
    """Show it; 0 if the reservation moved and no write of the intruder was carried out."""
    if os.geteuid() != 0:
        print(
            "This demonstration needs root: it makes networks and mounts for two hosts, and starts libvirtd"
            " in them. As root, type: make demo-libvirt",
            file=sys.stderr,
        )
        return 1
    if not installed(*PACKAGES):
        return 1
    with tempfile.TemporaryDirectory() as folder, libvirt_site(Path(folder)) as machine:
        return _show(machine)


def _show(machine: Machine) -> int:
    site, source, destination = machine.site, machine.here, machine.there
    print(f"Two hosts, {source} and {destination}, with a libvirtd and a Holdover agent each.")
    _say_where(machine, "Before")
    with intruder(site) as reports:
        print("An intruder, a third initiator, tries to write all the time.")
        print(f"{source}# virsh migrate --live {GUEST} qemu+tcp://{destination}/system", flush=True)
        done = machine.libvirt.migrate(source, destination)
        print((done.stdout + done.stderr).strip() or f"(exit status {done.returncode})")
        if done.returncode == 0:
            machine.here, machine.there = destination, source
        machine.is_at_home()
    (report,) = reports
    _say_where(machine, "After")
    print(f"The intruder: {report.refused} writes refused, {report.accepted} carried out.")
    return 0 if done.returncode == 0 and report.accepted == 0 and report.refused > 0 else 1


def _say_where(machine: Machine, when: str) -> None:
    print(f"{when}: {machine.site.where(machine.libvirt.runs_on())}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
