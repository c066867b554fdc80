"""A guest's process on this host, until it ends."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdover.agent.aside import HasOpen
from holdover.agent.device import GuestDevice
from holdover.scsi.inquiry import Designator

__all__ = ["Process", "Way"]

_START_TIME = 19
"""The place of starttime among the fields after the name in /proc/PID/stat."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Way:
    """The device that a disk of a process is.

    Attributes:
        guest: The guest's name.
        device: Its device.
        designator: By what that was known then.
        path: What must have the disk open.
    """

    guest: str
    device: GuestDevice
    designator: Designator
    path: HasOpen


class Process:
    """A process that cannot be mistaken for a later one with the same number: it is watched by its pidfd.

    Attributes:
        pid: Its number.
        started: When it began, seconds since the system was started, in full ticks of the clock.
        seen: A connection of this number that began until then, and not before `started`, is its own.
        ways: The devices of its guest, by the disks that they are for it, for commands aside of the loop.
    """

    def __init__(self, pid: int, ended: Callable[[Process], None]) -> None:
        """``ended`` is called once, in the running event loop, unless `close` comes first.

        Raises:
            OSError: There is no such process, or it cannot be watched.
        """
        self.pid = pid
        self.seen = 0.0
        self.ways: dict[tuple[int, int], Way] = {}
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
