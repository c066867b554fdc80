"""A TCP proxy that delays every byte by the same time each way, and tells how well it does so.

    python -m bench.delay

runs one; `DelayProxy` starts and drives it: lines on its standard input are answered one by one. It ends
with its input.

asyncio's own timers, uvloop's too, are rounded to milliseconds, which is what is to be told apart here. So
one timer of the kernel (timerfd) wakes the loop when the oldest piece is due; since the delay is the same
for all, pieces become due in the order in which they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import uvloop

from bench.figures import Spread

__all__ = ["Accuracy", "DelayProxy", "delay_proxy", "measure_accuracy"]

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_PINGS = 200
_PING = bytes(48)
"""As long as an iSCSI header."""


class _Itimerspec(ctypes.Structure):
    """struct itimerspec: interval and value, each in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]


class _Timer:
    """A timerfd; readable once the moment set has come."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed; the proxy needs Linux")

    def set(self, moment: float) -> None:
        """Go off at ``moment``, by time.monotonic()."""
        # 0 would disarm it
        nanoseconds = max(1, round(moment * 1e9))
        value = _Itimerspec(0, 0, nanoseconds // 10**9, nanoseconds % 10**9)
        self._libc.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(value), None)

    def clear(self) -> None:
        """Take note that it went off."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 8)


class _Line:
    """What is on its way, oldest first; None at the end of a connection's data."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds = 0.0
        self._timer = _Timer()
        self._under_way: deque[tuple[float, asyncio.Transport, bytes | None]] = deque()
        loop.add_reader(self._timer.descriptor, self._go_off)

    def send(self, to: asyncio.Transport, data: bytes | None) -> None:
        if not self._under_way and self.seconds == 0:
            _deliver(to, data)
            return
        due = time.monotonic() + self.seconds
        if self._under_way:
            # a delay made shorter must not let later pieces overtake
            due = max(due, self._under_way[-1][0])
        else:
            self._timer.set(due)
        self._under_way.append((due, to, data))

    def _go_off(self) -> None:
        self._timer.clear()
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, to, data = self._under_way.popleft()
            _deliver(to, data)
        if self._under_way:
            self._timer.set(self._under_way[0][0])


def _deliver(to: asyncio.Transport, data: bytes | None) -> None:
    if to.is_closing():
        return
    if data is None:
        to.close()
    else:
        to.write(data)


class _Side(asyncio.Protocol):
    """One end of a connection; what comes before the other end is there is kept."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._early: list[bytes | None] = []
        self._to: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by name
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._pass_on(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._pass_on(None)

    def connect_to(self, to: asyncio.Transport) -> None:
        self._to = to
        for data in self._early:
            self._line.send(to, data)

    def _pass_on(self, data: bytes | None) -> None:
        if self._to is None:
            self._early.append(data)
        else:
            self._line.send(self._to, data)


class _Front(_Side):
    """The end that was accepted: connects to the server."""

    def __init__(self, line: _Line, port: int) -> None:
        super().__init__(line)
        self._port = port
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        assert self.transport is not None
        try:
            server, back = await loop.create_connection(lambda: _Side(self._line), "127.0.0.1", self._port)
        except OSError:
            self.transport.close()
            return
        self.connect_to(server)
        back.connect_to(self.transport)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    line = _Line(loop)
    # its lateness would be taken for the network's
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while order := await orders.readline():
        word, value = order.decode().split()
        if word == "delay":
            line.seconds = float(value)
            answer = "ok"
        else:
            server = await loop.create_server(partial(_Front, line, int(value)), "127.0.0.1", 0)
            answer = str(server.sockets[0].getsockname()[1])
        print(answer, flush=True)


class DelayProxy:
    """A running proxy."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """For `delay_proxy`, which is the way to one of these."""
        self._process = process

    async def route(self, port: int) -> int:
        """A new port of 127.0.0.1 that leads to ``port``."""
        return int(await self._ask(f"route {port}"))

    async def set_delay(self, seconds: float) -> None:
        """Delay by so much each way, from now on."""
        await self._ask(f"delay {seconds!r}")

    async def _ask(self, order: str) -> str:
        orders, answers = self._process.stdin, self._process.stdout
        assert orders is not None
        assert answers is not None
        orders.write(f"{order}\n".encode())
        await orders.drain()
        answer = (await answers.readline()).decode().strip()
        if not answer:
            raise RuntimeError(f"the delaying proxy ended at {order!r}")
        return answer


@asynccontextmanager
async def delay_proxy() -> AsyncIterator[DelayProxy]:
    """A proxy without routes and without delay, until the block ends."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.delay", stdin=pipe, stdout=pipe
    )
    try:
        yield DelayProxy(process)
    finally:
        process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How long a ping through the proxy took.

    Attributes:
        delay_ms: Asked for, each way.
        round_trip_ms: From send to answer, without what it takes with no delay.
        p99_ms: Its 99th percentile.
    """

    delay_ms: float
    round_trip_ms: float
    p99_ms: float


async def measure_accuracy(proxy: DelayProxy, delays_ms: tuple[float, ...]) -> list[Accuracy]:
    """Ping an echo through the proxy at each delay; leaves the delay at 0."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)

    found = []
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        port = await proxy.route(server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await proxy.set_delay(0)
        base = Spread.of(await _pings(reader, writer)).median
        for delay in delays_ms:
            await proxy.set_delay(delay / 1000)
            times = sorted(await _pings(reader, writer))
            found.append(
                Accuracy(delay, Spread.of(times).median - base, times[len(times) * 99 // 100] - base)
            )
        await proxy.set_delay(0)
        writer.close()
    return found


async def _pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[float]:
    """Milliseconds of each."""
    times = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        writer.write(_PING)
        await reader.readexactly(len(_PING))
        times.append((time.perf_counter() - began) * 1000)
    return times


if __name__ == "__main__":
    uvloop.run(_serve())
