"""A fresh Debian in a folder, made once by mmdebstrap and kept for all hosts, which run it in layers.

HOLDOVER_DEBIAN_ROOT names the folder; without it, it is in the project's cache folder, by the release and the
list of packages. To make it takes about 2 minutes of CPU and loads 200 MB. Who makes it holds a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from holdover.demo.machines.image import cache_folder
from tests.rig.packages import needs

RELEASE = "bookworm"
"""The release of Debian for which `make deb` builds where it is built on that release."""
NEWER_RELEASE = "trixie"
_NEWER = ("libvirt-daemon-plugin-lockd", "iproute2")
"""What Debian 13 has in packages of their own."""
_SYSTEM = (
    "systemd",
    "dbus",
    "python3",
    "procps",
    "apparmor",
    "man-db",
    "bash-completion",
    "groff",
    "iproute2",
)
_HYPERVISOR = ("qemu-system-x86", "qemu-block-extra", "libvirt-daemon-system", "libvirt-clients", "sg3-utils")


def debian_root() -> Path:
    """The folder of a fresh Debian with QEMU and libvirt; nobody may write into it."""
    needs("mmdebstrap", "systemd-container")
    if given := os.environ.get("HOLDOVER_DEBIAN_ROOT"):
        return Path(given)
    return _root(RELEASE, sorted((*_SYSTEM, *_HYPERVISOR)))


def newer_libvirt_root() -> Path:
    """The folder of a Debian 13 with QEMU and libvirt 11; nobody may write into it.

    The test that calls this is skipped, with the reason, where the folder cannot be made.
    """
    needs("mmdebstrap")
    try:
        return _root(NEWER_RELEASE, sorted((*_HYPERVISOR, *_NEWER)))
    except AssertionError as error:
        pytest.skip(str(error))


def _root(release: str, packages: list[str]) -> Path:
    recipe = hashlib.sha256(" ".join((release, *packages)).encode()).hexdigest()[:12]
    folder = cache_folder() / "debian" / f"{release}-{recipe}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _make(folder, release, packages)
    return folder


def _make(folder: Path, release: str, packages: list[str]) -> None:
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix="new-"))
    try:
        root = new / "root"
        options = ["--variant=minbase", f"--include={','.join(packages)}"]
        done = subprocess.run(
            ["mmdebstrap", *options, release, str(root)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"mmdebstrap failed; is the mirror reachable?\n{done.stderr[-2000:]}"
        root.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
