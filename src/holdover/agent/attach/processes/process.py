"""A guest's process on this host, until it ends."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from dataclasses import dataclass

from holdover.agent.attach.processes.process_identity import QemuIdentity
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.inline_read import HasOpen
from holdover.guest.identity_policy import ProcessClaim, ProcessIdentity, Trust
from holdover.helper.process import start_time
from holdover.scsi.inquiry import Designator


@dataclass(frozen=True, slots=True)
class Way:
    """The device that a disk of a process is.

    Attributes:
        guest: The guest's name.
        device: The device.
        designator: The device's designator when this was stored.
        path: The path that must have the disk open.
    """

    guest: str
    device: GuestDevice
    designator: Designator
    path: HasOpen


class Process:
    """A process that cannot be confused with a later one of the same number: its pidfd is watched.

    Attributes:
        pid: The number of the process.
        started: When the process began, in seconds since the system started, in full ticks of the clock.
        seen: A connection with this number belongs to this process if it began between `started` and this
            time.
        identity: What the kernel says of the process; None until that was looked up.
        said: What the process says of its guest.
        claim: How far the process is known to be its guest.
        settled: Whether what it says is in use; that needs more proof than what it says itself.
        ways: The guest's devices by the disks that the process has for them, for inline reads.
    """

    def __init__(self, pid: int, ended: Callable[[Process], None]) -> None:
        """``ended`` is called once, in the running event loop, unless `close` is called first.

        Raises:
            OSError: There is no such process, or it cannot be watched.
        """
        self.pid = pid
        self.identity: ProcessIdentity | None = None
        self.said = QemuIdentity()
        self.claim = ProcessClaim(Trust.CLAIMED)
        self.settled = False
        self.seen = 0.0
        self.ways: dict[tuple[int, int], Way] = {}
        self._tell = ended
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = os.pidfd_open(pid)
        try:
            self.started = start_time(pid)
        except OSError:
            os.close(self._descriptor)
            raise
        self._loop.add_reader(self._descriptor, self._end)

    @property
    def ended(self) -> bool:
        """Whether the process has ended, or is watched no more."""
        if self._descriptor is None:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Stop watching the process."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _end(self) -> None:
        self.close()
        self._tell(self)
