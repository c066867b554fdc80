"""The machine on which figures were taken, in words that do not name it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The description that goes with every set of figures.

    Attributes:
        commit: The project's commit, with "+" if files were changed; "" outside of a work tree.
        load: The runnable processes in the last minute, which show other work at the same time.
    """

    date: str
    cpu: str
    cores: int
    memory_mib: int
    system: str
    kernel: str
    python: str
    commit: str
    load: float


def describe_machine() -> Machine:
    """This machine, now."""
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=cpu[1].strip() if cpu else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=_meminfo("MemTotal"),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        kernel=platform.release(),
        python=platform.python_version(),
        commit=_commit(),
        load=os.getloadavg()[0],
    )


def available_mib() -> int:
    """The memory that new processes can have, in MiB."""
    return _meminfo("MemAvailable")


def wide_console() -> Console:
    """A console for tables; without a terminal it is wide enough for every table."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _meminfo(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
