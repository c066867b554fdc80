"""`make demo-vm`: a Linux guest moves between separate hosts, without its reservation and with it.

The hosts are those of the tests: network, processes and folders of their own, and an agent each. Where they
cannot be made, `holdover demo --vm` plays the same on this machine alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from holdover.demo.vm import VmMissing, prepare
from tests.rig.hosts import until
from tests.rig.intruder import intruder
from tests.rig.packages import installed
from tests.rig.separate_pair import SIDES
from tests.rig.separate_site import GUEST, separate_site
from tests.rig.separate_tourist import Tourist

_NETWORK = ("iproute2", "nftables", "util-linux")
_KIND = 5
_WRITES = 20


def main() -> int:
    """Show it; 0 if the guest meets errors without its reservation, and none with it."""
    if reason := reason_against_hosts():
        print(f"{reason}, so this machine plays both hosts: holdover demo --vm", flush=True)
        return subprocess.run([sys.executable, "-m", "holdover", "demo", "--vm"], check=False).returncode
    try:
        prepare(sys.stderr, _agrees)
    except VmMissing as error:
        print(error, file=sys.stderr)
        return 1
    harm = _act("off")
    return 0 if _act("on") == 0 and harm > 0 else 1


def reason_against_hosts() -> str:
    """Why no separate hosts can be made here; empty if they can."""
    if os.geteuid() != 0:
        return "Separate hosts need root"
    if not installed(*_NETWORK):
        return f"Separate hosts need the packages {' '.join(_NETWORK)}"
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False).returncode:
        return "This machine does not let root make hosts with networks and mounts of their own"
    return ""


def _agrees(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _act(migrate_pr: str) -> int:
    """Play one act; how many writes of the guest were refused, and of the intruder were not."""
    print(f"\nmigrate-pr={migrate_pr}: two hosts and a SAN, which share a network alone", flush=True)
    with tempfile.TemporaryDirectory() as folder, separate_site(Path(folder), *SIDES) as site:
        site.migrate_pr = migrate_pr
        site.begin()
        guest = Tourist(site)
        guest.boot()
        return _show(guest)


def _show(guest: Tourist) -> int:
    here, there = SIDES
    guest.reserve(_KIND, third=False)
    _writes_more(guest)
    with intruder(guest.site) as reports:
        _say_where(guest, "Before")
        print(f"{here}# holdover migrate {GUEST} --to {there}", flush=True)
        guest.go(there)
        _writes_more(guest)
        _say_where(guest, "After")
    (report,) = reports
    counts = guest.counts()
    print(f"{GUEST}: {counts['writes']} writes done, {counts['write_errors']} refused.")
    print(f"An intruder: {report.accepted} writes done, {report.refused} refused.", flush=True)
    return int(counts["write_errors"]) + report.accepted


def _writes_more(guest: Tourist) -> None:
    """Wait until the guest has tried a few more writes."""

    def tried() -> int:
        counts = guest.counts("report")
        return int(counts["writes"]) + int(counts["write_errors"])

    enough = tried() + _WRITES
    until(lambda: tried() >= enough, f"{GUEST} does not write")


def _say_where(guest: Tourist, when: str) -> None:
    print(f"{when}: {guest.site.where(guest.guest.running_on())}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
