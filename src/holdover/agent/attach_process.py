"""A guest's process on this host, until it ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

__all__ = ["Process"]


class Process:
    """A process that cannot be mistaken for a later one with the same number: it is watched by its pidfd.

    Attributes:
        pid: Its number.
        ended: Whether it has ended.
    """

    def __init__(self, pid: int, ended: Callable[[Process], None]) -> None:
        """``ended`` is called once, in the running event loop, unless `close` comes first.

        Raises:
            OSError: There is no such process, or it cannot be watched.
        """
        self.pid = pid
        self.ended = False
        self._tell = ended
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = os.pidfd_open(pid)
        self._loop.add_reader(self._descriptor, self._end)

    def close(self) -> None:
        """Watch it no more."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _end(self) -> None:
        self.close()
        self.ended = True
        self._tell(self)
