"""The loop that workload and intruder share: write, count, report; orders come from standard input."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from holdover.demo.messages import End, Order, Said, Tick, decode_order, encode
from holdover.scsi.command import Response

_TICK = 0.02


def say(message: Said) -> None:
    """Write one message as a line to standard output, at once."""
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


@asynccontextmanager
async def orders() -> AsyncGenerator[asyncio.Queue[Order]]:
    """The orders from standard input, and *end* when it is closed.

    Raises:
        ExceptionGroup: A line is not an order; the group has a msgspec.DecodeError.
    """
    queue: asyncio.Queue[Order] = asyncio.Queue()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )

    async def read() -> None:
        while line := await reader.readline():
            queue.put_nowait(decode_order(line))
        queue.put_nowait(End())

    # The loop has only weak references to reader and task. If nothing else referred to them, the garbage
    # collector would free both.
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        yield queue
        reading.cancel()
    transport.close()


class Counter:
    """The counts of accepted and refused writes, told in ticks of 20 ms so that a timeline can be drawn."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._last = time.monotonic()
        self._accepted = self._refused = 0
        self._why = ""
        self.accepted = self.refused = 0

    def count(self, response: Response) -> None:
        """Count one write that has ended."""
        if response.good:
            self._accepted += 1
            self.accepted += 1
        else:
            self._refused += 1
            self.refused += 1
            self._why = response.status.name.replace("_", " ")
        if time.monotonic() - self._last >= _TICK:
            self.tick()

    def tick(self) -> None:
        """Send the counts that were not sent yet."""
        now = time.monotonic()
        if self._accepted or self._refused:
            say(Tick(now, self._who, self._accepted, self._refused, self._why))
        self._last, self._accepted, self._refused, self._why = now, 0, 0, ""
