"""Two separate hosts within a kernel of the rig: each has a disk of its own, and both disks are one LUN.

Namespaces and a network of this kernel separate them, as `hosts` does it outside. Each host sees
its own disk alone, by the name that both have for it, as by udev.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.rig.hosts import SeparateHosts
from tests.rig.kernel_init import load_module
from tests.rig.kernel_programs import run_holdover
from tests.rig.separate_site import GUEST, SOCKET, SeparateSite

HOSTS = {"host-a": "sda", "host-b": "sdb"}
"""The hosts, each with the kernel's name of its disk."""
THIRD = Path("/dev/sdc")
"""The disk of nobody."""
LINK = "/dev/disk/by-id/wwn-0x600140500000001f00d0000000000000"
"""What each host calls its disk."""
HELPER = "/run/holdover/pr-helper.sock"
_DISKS = ("sda", "sdb", "sdc")
_API = 7411
_MODULES = (
    "lib/crc-ccitt",
    "net/ipv6/ipv6",
    "net/llc/llc",
    "net/802/stp",
    "net/bridge/bridge",
    "drivers/net/veth",
)
_OWN_DISK = f"""
set -eu
for each in {" ".join(_DISKS)}; do
  [ "$each" = "$0" ] || mount --bind /dev/null "/dev/$each"
done
mount -t tmpfs tmpfs /dev/disk/by-id
ln -s "/dev/$0" {LINK}
"""
_HEAD = """
name = "{name}"
initiator = "iqn.2026-11.org.example:{name}"
[api]
listen = ["{address}:{port}", "unix:{socket}"]
certificate = "/etc/holdover/{name}.crt"
key = "/etc/holdover/{name}.key"
ca = "/etc/holdover/ca.crt"
[[peer]]
name = "{peer}"
api = "{peer}:{port}"
"""
_LIBVIRT = f"""
[helper]
socket = "{HELPER}"
[[rule]]
guest = "{GUEST}"
migrate-pr = "on"
[libvirt]
"""


class KernelSite(SeparateSite):
    """The hosts, with an agent each whose file names no guest."""

    def begin(self, initiators: dict[str, str] | None = None, sections: str = "", settings: str = "") -> None:
        """Give each host its disk, and start its agent."""
        self.give_disks()
        for name in self.names:
            self.configure(name, _LIBVIRT + sections, settings)
            self.start_agent(name)

    def give_disks(self) -> None:
        """Give each host its certificate and its disk."""
        self._issue()
        for name in self.names:
            made = self[name].run("sh", "-c", _OWN_DISK, HOSTS[name])
            assert made.returncode == 0, made.stderr

    def configure(self, name: str, sections: str, settings: str = "") -> None:
        """Write the file of a host's agent: what makes the hosts peers, and ``sections``."""
        (peer,) = set(self.names) - {name}
        head = _HEAD.format(name=name, address=self[name].address, port=_API, socket=SOCKET, peer=peer)
        (self[name].etc / "agent.toml").write_text(settings + head + sections, encoding="utf-8")

    def _issue(self) -> None:
        pki = Path("/run/ca")
        for command in (["init", str(pki)], *(["issue", name, "--ca", str(pki)] for name in self.names)):
            status, said = run_holdover(["ca", *command])
            assert status == 0, said
        for name in self.names:
            for file in (f"{name}.crt", f"{name}.key", "ca.crt"):
                copy = self[name].etc / file
                copy.write_bytes((pki / file).read_bytes())
                copy.chmod(0o600)


@contextlib.contextmanager
def kernel_site() -> Iterator[KernelSite]:
    """The hosts, with no agent yet; they end with the kernel."""
    # this kernel kills a process with threads that uses vfork
    vars(subprocess)["_USE_VFORK"] = False
    os.environ.pop("TMPDIR", None)  # each host has a /tmp of its own
    modules = next(Path("/usr/lib/uml/modules").glob("*/kernel"))
    for module in _MODULES:
        load_module(modules / f"{module}.ko")
    Path("/dev/disk/by-id").mkdir(parents=True, exist_ok=True)
    hosts = SeparateHosts(Path("/run/site"), *HOSTS)
    hosts.boot()
    try:
        yield KernelSite(hosts, tuple(HOSTS), luns=1)
    finally:
        hosts.shut_down()
