"""Programs of others that tests run against, and the Debian packages they come from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from holdover.qemu.process import missing_qemu_packages

__all__ = ["PRESENT", "needs"]

PRESENT: dict[str, Callable[[], bool]] = {
    "busybox-static": lambda: shutil.which("busybox") is not None,
    "libiscsi-bin": lambda: shutil.which("iscsi-test-cu") is not None,
    "e2fsprogs": lambda: shutil.which("mkfs.ext4") is not None,
    "multipath-tools": lambda: shutil.which("multipathd", path="/sbin:/usr/sbin") is not None,
    "open-iscsi": lambda: shutil.which("iscsistart") is not None,
    "qemu-block-extra": lambda: "qemu-block-extra" not in missing_qemu_packages(),
    "qemu-system-common": lambda: shutil.which("qemu-pr-helper") is not None,
    "qemu-system-x86": lambda: "qemu-system-x86" not in missing_qemu_packages(),
    "qemu-utils": lambda: shutil.which("qemu-img") is not None,
    "sg3-utils": lambda: shutil.which("sg_persist") is not None,
    "systemd": lambda: shutil.which("systemd-analyze") is not None,
    "tgt": lambda: shutil.which("tgtd") is not None,
    "user-mode-linux": lambda: shutil.which("linux.uml") is not None,
}
"""Whether a package's programs are here, by the package's name."""


def needs(*packages: str) -> None:
    """Skip the test that calls this, naming the packages, where they are missing.

    Under CI (the environment variable CI is "true") a missing package is a failure: there every peer was
    to be installed, and a test that nobody runs shows nothing.
    """
    missing = [package for package in packages if not PRESENT[package]()]
    if not missing:
        return
    reason = f"needs the Debian package{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
