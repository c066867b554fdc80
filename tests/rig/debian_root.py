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

from holdover.demo.machines.image import cache_folder
from tests.rig.packages import needs

RELEASE = "bookworm"
"""The release of Debian for which `make deb` builds where it is built on that release."""
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
    packages = sorted((*_SYSTEM, *_HYPERVISOR))
    recipe = hashlib.sha256(" ".join((RELEASE, *packages)).encode()).hexdigest()[:12]
    folder = cache_folder() / "debian" / f"{RELEASE}-{recipe}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _make(folder, packages)
    return folder


def _make(folder: Path, packages: list[str]) -> None:
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix="new-"))
    try:
        root = new / "root"
        options = ["--variant=minbase", f"--include={','.join(packages)}"]
        done = subprocess.run(
            ["mmdebstrap", *options, RELEASE, str(root)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"mmdebstrap failed; is the mirror reachable?\n{done.stderr[-2000:]}"
        root.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
