"""Programs of others that tests run against, and the Debian packages they come from."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["PROGRAMS", "needs"]

PROGRAMS = {
    "busybox-static": "busybox",
    "libiscsi-bin": "iscsi-test-cu",
    "qemu-system-x86": "qemu-system-x86_64",
    "sg3-utils": "sg_persist",
}
"""By package, a program whose presence shows that the package is installed."""


def needs(*packages: str) -> None:
    """Skip the test that calls this, naming the packages, where they are missing.

    Under CI (the environment variable CI is "true") a missing package is a failure: there every peer was
    to be installed, and a test that nobody runs shows nothing.
    """
    missing = [package for package in packages if shutil.which(PROGRAMS[package]) is None]
    if not missing:
        return
    reason = f"needs the Debian package{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
