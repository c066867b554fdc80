"""The programs of this host with which an agent works: QEMU and multipathd."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from holdover.doctor.finding import Finding, ok, unknown, warning, wrong
from holdover.paths.multipath_daemon import MultipathDaemon
from holdover.scsi.path import PathError

_QEMUS = ("qemu-system-x86_64", "qemu-system-aarch64", "qemu-system-s390x", "qemu-system-ppc64", "qemu-kvm")
_LEAST = (2, 11)
_SECONDS = 30.0


def qemu_checks() -> Iterator[Finding]:
    """The version of each QEMU: from 2.11 on it can use a persistent reservation helper."""
    found = [shutil.which(name) or "" for name in (*_QEMUS, "/usr/libexec/qemu-kvm")]
    programs = [each for each in found if each]
    if not programs:
        yield unknown(
            "QEMU", "no QEMU was found in PATH", "none is needed if guests reach the agent by iSCSI"
        )
    for program in programs:
        yield _qemu(program)


def _qemu(program: str) -> Finding:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return unknown("QEMU", f"{program}: {error}", "see to that program")
    return judge_qemu(program, done.stdout)


def judge_qemu(program: str, said: str) -> Finding:
    """What the answer of ``program --version`` means."""
    version = re.search(r"version (\d+)\.(\d+)", said)
    if version is None:
        return unknown("QEMU", f"{program} does not tell its version", "see to that program")
    number = int(version[1]), int(version[2])
    text = f"{program} is version {number[0]}.{number[1]}"
    if number < _LEAST:
        return wrong(
            "QEMU", f"{text}: it knows no persistent reservation helper", "use 2.11 or later, or iSCSI"
        )
    return ok("QEMU", text)


def multipath_checks(devices: Path = Path("/sys/block")) -> Iterator[Finding]:
    """Whether multipathd answers and keeps the keys of new paths, if this host has multipath devices."""
    maps = [
        each.name
        for each in devices.glob("dm-*")
        if (each / "dm" / "uuid").is_file() and (each / "dm" / "uuid").read_text().startswith("mpath-")
    ]
    if not maps:
        yield ok("multipath", "this host has no multipath device")
        return
    try:
        usable = MultipathDaemon().usable()
    except PathError as error:
        yield wrong("multipath", str(error), "systemctl start multipathd (docs/how-to/multipath.md)")
        return
    yield ok("multipath", f"multipathd answers: {len(maps)} devices, {len(usable)} usable paths")
    try:
        done = subprocess.run(
            ["multipathd", "show", "config", "local"],
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        yield unknown("multipath", f"multipathd does not show its configuration: {error}", "run it as root")
        return
    yield judge_multipath(done.stdout)


def judge_multipath(configuration: str) -> Finding:
    """Whether new paths of a device get the guest's key, by multipathd's configuration."""
    if re.search(r'^\s*reservation_key\s+"?file"?\s*$', configuration, re.MULTILINE):
        return ok("multipath", "multipathd takes the keys of new paths from its file (reservation_key file)")
    return warning(
        "multipath",
        "multipathd has no reservation_key file: a path that comes back has no registration of the guest",
        "add reservation_key file to /etc/multipath.conf (docs/how-to/multipath.md)",
    )
