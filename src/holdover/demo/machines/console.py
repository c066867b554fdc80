"""Runs commands in a guest over the guest's serial console, where a shell reads lines.

QEMU serves the console at a Unix socket, to one client at a time. When the guest migrates, its terminal moves
along: connect to the destination's socket and continue there.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# In canonical mode, Linux cuts a line of a terminal at 4096 bytes (N_TTY_BUF_SIZE).
_LINE_LIMIT = 4095
_CONNECT_TIMEOUT = 10.0


class ConsoleError(Exception):
    """The console was lost, or the expected text did not come in time; the message shows the last output."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit status of a command, and its output (both streams; each line ends with "\\n")."""

    status: int
    output: str


class Console:
    """The console of one QEMU. `connect` makes one. It runs one command at a time."""

    def __init__(self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Only `connect` calls this."""
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
        """Wait until the guest has written `text`. Returns all unread output up to the end of `text`."""
        return await self._read_until(re.compile(re.escape(text)), timeout, f"{text!r}")

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        """Run `command` by `sh -c` in the guest, without input, and wait until the command has ended.

        Raises ConsoleError when the command has not ended within `timeout` seconds. It may then still run.
        """
        number = next(self._numbers)
        # The guest's shell joins the pieces of the marks. So an echo of this line by the terminal has no
        # marks in it.
        called = f"sh -c {shlex.quote(command)} </dev/null 2>&1"
        line = f"echo '@@'begin-{number}@@; {called}; echo '@@'end-{number} $?@@\n"
        if "\n" in line[:-1] or len(line.encode()) > _LINE_LIMIT:
            raise ConsoleError(
                f"console {self.path}: a command must be one line of less than 4 KiB, not {command!r}"
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
        assert mark is not None  # noqa: S101 - the text was read up to this mark
        return CommandResult(int(mark[1]), text[: mark.start()])

    async def close(self) -> None:
        """Close the connection to the console; the guest and its shell do not notice."""
        self._writer.close()

    async def _read_until(self, pattern: re.Pattern[str], timeout: float, what: str) -> str:
        try:
            async with asyncio.timeout(timeout):
                while (match := pattern.search(self._unread)) is None:
                    data = await self._reader.read(4096)
                    if not data:
                        raise ConsoleError(f"console {self.path}: QEMU closed it before {what}{self._tail()}")
                    # A serial console ends a line with "\r\n". No caller needs any "\r".
                    self._unread += data.decode(errors="replace").replace("\r", "")
        except TimeoutError:
            raise ConsoleError(f"console {self.path}: no {what} within {timeout:g} s{self._tail()}") from None
        except OSError as error:
            raise ConsoleError(f"console {self.path}: lost before {what}: {error}{self._tail()}") from error
        text, self._unread = self._unread[: match.end()], self._unread[match.end() :]
        return text

    def _tail(self) -> str:
        return f"; its last output:\n{self._unread[-2000:]}"
