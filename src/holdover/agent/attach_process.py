"""A guest's process on this host, until it ends."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

__all__ = ["Process"]

_START_TIME = 19
"""The place of starttime among the fields after the name in /proc/PID/stat."""

_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A process that cannot be mistaken for a later one with the same number: it is watched by its pidfd.

    Attributes:
        pid: Its number.
        started: When it began, seconds since the system was started, in full ticks of the clock.
    """

    def __init__(self, pid: int, ended: Callable[[Process], None]) -> None:
        """``ended`` is called once, in the running event loop, unless `close` comes first.

        Raises:
            OSError: There is no such process, or it cannot be watched.
        """
        self.pid = pid
        self._tell = ended
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = os.pidfd_open(pid)
        try:
            self.started = _start_time(pid)
        except OSError:
            os.close(self._descriptor)
            raise
        self._loop.add_reader(self._descriptor, self._end)

    @property
    def ended(self) -> bool:
        """Whether it has ended, or is watched no more."""
        if self._descriptor is None:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Watch it no more."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _end(self) -> None:
        self.close()
        self._tell(self)


def _start_time(pid: int) -> float:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(text.rpartition(")")[2].split()[_START_TIME]) / _TICKS
