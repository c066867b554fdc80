"""When a process of this host began. This time and its number together identify one process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_START_TIME: Final = 19
"""The index of starttime among the fields after the name in /proc/PID/stat."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def start_time(pid: int, proc: Path = Path("/proc")) -> float:
    """Seconds from the system's start to the start of the process, in whole clock ticks.

    Raises:
        OSError: There is no such process.
    """
    text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    return int(text.rpartition(")")[2].split()[_START_TIME]) / _TICKS
