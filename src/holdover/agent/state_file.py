"""A small file that is replaced as a whole, and is on disk when a write returns."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdover.lock_server.tracked_list import replace_file


class StateFile:
    """One file in the agent's state folder, which only this process writes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._saving = asyncio.Lock()

    async def write(self, content: bytes) -> None:
        """Replace the content; it is on disk when this returns.

        Raises:
            OSError: It cannot be written; the file is as before.
        """
        # a write goes on in its thread when its caller waits no more, and the next one must come after it
        await asyncio.shield(self._write_in_turn(content))

    async def _write_in_turn(self, content: bytes) -> None:
        async with self._saving:
            await asyncio.to_thread(replace_file, self.file, content)


def boot_id() -> str:
    """The id of this boot of the system: no process of another boot is alive."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
