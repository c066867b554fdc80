"""Programs of others that tests run against, and the Debian packages they come from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from holdover.agent.libvirt.libvirt_python import load_libvirt
from holdover.demo.machines.process import missing_qemu_packages

_SYSTEM = "/bin:/usr/bin:/sbin:/usr/sbin"

PRESENT: dict[str, Callable[[], bool]] = {
    "apparmor": lambda: shutil.which("apparmor_parser", path=_SYSTEM) is not None,
    "secilc": lambda: shutil.which("secilc") is not None,
    "busybox-static": lambda: shutil.which("busybox") is not None,
    "iproute2": lambda: shutil.which("ip", path=_SYSTEM) is not None,
    "fish": lambda: shutil.which("fish") is not None,
    "libiscsi-bin": lambda: shutil.which("iscsi-test-cu") is not None,
    "e2fsprogs": lambda: shutil.which("mkfs.ext4") is not None,
    "fence-agents": lambda: shutil.which("fence_scsi", path=_SYSTEM) is not None,
    "libvirt-clients": lambda: shutil.which("virsh") is not None,
    "libvirt-daemon-system": lambda: shutil.which("libvirtd", path=_SYSTEM) is not None,
    "mmdebstrap": lambda: shutil.which("mmdebstrap") is not None,
    "multipath-tools": lambda: shutil.which("multipathd", path=_SYSTEM) is not None,
    "nftables": lambda: shutil.which("nft", path=_SYSTEM) is not None,
    "open-iscsi": lambda: shutil.which("iscsistart") is not None,
    "python3-libvirt": lambda: load_libvirt() is not None,
    "prometheus": lambda: shutil.which("prometheus") is not None and shutil.which("promtool") is not None,
    "qemu-block-extra": lambda: "qemu-block-extra" not in missing_qemu_packages(),
    "qemu-system-common": lambda: shutil.which("qemu-pr-helper") is not None,
    "qemu-system-x86": lambda: "qemu-system-x86" not in missing_qemu_packages(),
    "qemu-utils": lambda: shutil.which("qemu-img") is not None,
    "sg3-utils": lambda: shutil.which("sg_persist") is not None,
    "systemd": lambda: shutil.which("systemd-analyze") is not None,
    "systemd-container": lambda: shutil.which("systemd-nspawn") is not None,
    "tgt": lambda: shutil.which("tgtd") is not None,
    "user-mode-linux": lambda: shutil.which("linux.uml") is not None,
    "util-linux": lambda: shutil.which("unshare") is not None and shutil.which("nsenter") is not None,
    "zsh": lambda: shutil.which("zsh") is not None,
}
"""Whether a package's programs are here, by the package's name."""


def missing(*packages: str) -> list[str]:
    """Those of the packages whose programs are not here."""
    return [package for package in packages if not PRESENT[package]()]


def needs(*packages: str) -> None:
    """Skip the test that calls this, naming the packages, where they are missing.

    Under CI (the environment variable CI is "true") a missing package is a failure: there every peer was
    to be installed, and a test that nobody runs shows nothing.
    """
    lacks = missing(*packages)
    if not lacks:
        return
    reason = f"needs the Debian package{'s' if len(lacks) > 1 else ''} {', '.join(lacks)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def installed(*packages: str) -> bool:
    """Whether all packages are here at last; installs those that are missing if the person agrees."""
    lacks = missing(*packages)
    if not lacks:
        return True
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *lacks]
    if shutil.which("apt-get") is None:
        print(f"These packages are missing: {', '.join(lacks)}", file=sys.stderr)
        return False
    try:
        agrees = input(f"Packages are missing. Run `{' '.join(command)}`? [y/N] ").lower() in ("y", "yes")
    except EOFError:
        agrees = False
    if not agrees:
        print(f"Nothing was installed. Missing: {', '.join(lacks)}", file=sys.stderr)
        return False
    return subprocess.run(command, check=False).returncode == 0
