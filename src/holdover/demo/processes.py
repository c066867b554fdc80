"""The demonstration's processes: started with pipes, ended by their id, with their error output kept."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from holdover.demo.messages import Order, Said, decode_said, encode

_START_SECONDS = 120.0
_END_SECONDS = 10.0

_PORTS = (20000, 32000)
_DRAWN = random.SystemRandom()
_KEPT: deque[socket.socket] = deque()
_KEPT_AT_MOST = 200  # by then the oldest ports are in use, or nobody wanted them


class DemoFailed(Exception):
    """The demonstration failed; the message says which process failed, and what that process wrote."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 at which nobody listens now; no other call returns it meanwhile.

    A socket here stays bound to the port without listening. It lets a server bind the port too, because
    servers ask for SO_REUSEADDR. Other searches for a free port, and outgoing connections, do not ask for it,
    so they cannot take the port before its user does. The port is below the range from which Linux takes
    ports for outgoing connections. The random choice does not use the seed that tests set.
    """
    while True:
        port = _DRAWN.randint(*_PORTS)
        kept = socket.socket()
        try:
            kept.bind(("127.0.0.1", port))
        except OSError:
            kept.close()
            continue
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _KEPT.append(kept)
        if len(_KEPT) > _KEPT_AT_MOST:
            _KEPT.popleft().close()
        return port


class Child:
    """One process; it reads and writes one line at a time."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._errors = errors

    async def line(self) -> bytes:
        """The next line of the process's output."""
        if self._process.stdout is None:
            raise DemoFailed(f"{self.name} has no output")
        line = await self._process.stdout.readline()
        if not line:
            raise DemoFailed(f"{self.name} ended:\n{self.errors()}")
        return line

    async def said(self) -> Said:
        """The next message."""
        return decode_said(await self.line())

    def order(self, order: Order) -> None:
        """Send the process an order."""
        if self._process.stdin is not None:
            self._process.stdin.write(encode(order))

    def errors(self) -> str:
        """What the process has written to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()

    async def end(self) -> None:
        """End the process: ask first, then use force."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._errors.close()


@asynccontextmanager
async def started(
    name: str, *arguments: str, ready: str | None = None, folder: Path
) -> AsyncGenerator[Child, None]:
    """Run ``python -m ARGUMENTS`` in ``folder``; wait for a line that contains ``ready``, if given.

    Raises:
        DemoFailed: The process ended, or did not write that line in time. The error has its standard error.
    """
    with TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=folder,
        )
        child = Child(name, process, errors)
        try:
            if ready is not None:
                try:
                    async with asyncio.timeout(_START_SECONDS):
                        while ready.encode() not in await child.line():
                            pass
                except TimeoutError:
                    raise DemoFailed(f"{name} did not start within {_START_SECONDS:g} s") from None
            yield child
        finally:
            await child.end()
