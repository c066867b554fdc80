"""Running commands in a guest over its serial console, where a shell reads lines.

QEMU gives the console out at a unix socket, to one client at a time. The guest takes its terminal with
it when it migrates: connect to the destination's socket and go on.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["CommandResult", "Console", "ConsoleError"]

# Linux cuts what a terminal in canonical mode gets in one line at 4096 bytes (N_TTY_BUF_SIZE).
_LINE_LIMIT = 4095
_CONNECT_TIMEOUT = 10.0


class ConsoleError(Exception):
    """The console is gone, or did not say in time what was awaited; the text shows the last it said."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command left: its exit status, and what it wrote (both streams, lines ended by "\\n")."""

    status: int
    output: str


class Console:
    """The console of one QEMU, made by `connect`. One command at a time."""

    def __init__(self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For `connect`, which is the way to one of these."""
        self.path = path
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._unread = ""

    @classmethod
    async def connect(cls, path: Path | str, *, timeout: float = _CONNECT_TIMEOUT) -> Self:
        """Connect to the console socket at `path`."""
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(str(path))
        except OSError as error:  # TimeoutError is one of them
            raise ConsoleError(f"console {path}: cannot connect: {error or 'no answer'}") from error
        return cls(Path(path), reader, writer)

    async def wait_for(self, text: str, timeout: float) -> str:
        """Wait until the guest has written `text`; gives all that was unread, up to and with it."""
        return await self._read_until(re.compile(re.escape(text)), timeout, f"{text!r}")

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        """Run `command` by `sh -c` in the guest, without input, and wait for its end.

        Raises ConsoleError where no end came within `timeout` seconds; the command may still be running.
        """
        number = next(self._numbers)
        # The pieces of the marks are joined by the guest's shell, so that an echo of this line, should the
        # terminal make one, is not taken for them.
        called = f"sh -c {shlex.quote(command)} </dev/null 2>&1"
        line = f"echo '@@'begin-{number}@@; {called}; echo '@@'end-{number} $?@@\n"
        if "\n" in line[:-1] or len(line.encode()) > _LINE_LIMIT:
            raise ConsoleError(
                f"console {self.path}: a command must be one line of less than 4 KiB: {command}"
            )
        try:
            self._writer.write(line.encode())
            await self._writer.drain()
        except OSError as error:
            raise ConsoleError(f"console {self.path}: lost before {command!r} was sent: {error}") from error
        await self._read_until(re.compile(rf"@@begin-{number}@@\n"), timeout, f"the start of {command!r}")
        end = re.compile(rf"@@end-{number} (\d+)@@\n")
        text = await self._read_until(end, timeout, f"the end of {command!r}")
        mark = end.search(text)
        assert mark is not None  # noqa: S101 - it is what the text was read until
        return CommandResult(int(mark[1]), text[: mark.start()])

    async def close(self) -> None:
        """Leave the console; the guest and its shell do not notice."""
        self._writer.close()

    async def _read_until(self, pattern: re.Pattern[str], timeout: float, what: str) -> str:
        try:
            async with asyncio.timeout(timeout):
                while (match := pattern.search(self._unread)) is None:
                    data = await self._reader.read(4096)
                    if not data:
                        raise ConsoleError(f"console {self.path}: it ended before {what}{self._tail()}")
                    # A serial console ends lines by "\r\n"; nobody here needs the other "\r" either.
                    self._unread += data.decode(errors="replace").replace("\r", "")
        except TimeoutError:
            raise ConsoleError(f"console {self.path}: no {what} within {timeout:g} s{self._tail()}") from None
        except OSError as error:
            raise ConsoleError(f"console {self.path}: lost before {what}: {error}{self._tail()}") from error
        text, self._unread = self._unread[: match.end()], self._unread[match.end() :]
        return text

    def _tail(self) -> str:
        return f"; the last it said:\n{self._unread[-2000:]}"
