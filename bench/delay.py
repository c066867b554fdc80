"""A TCP proxy that delays every byte by the same time in each direction, and measures how exactly it does so.

    python -m bench.delay

runs a proxy. `DelayProxy` starts and drives one: the proxy answers each line on its standard input, and ends
when the input ends.

asyncio rounds its timers to milliseconds, uvloop too, and the benchmarks must tell milliseconds apart. So one
timer of the kernel (timerfd) wakes the loop when the oldest piece is due. All pieces have the same delay, so
they become due in the order in which they came.
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

from bench.figures import Spread
from holdover.network import event_loop

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_PINGS = 200
_PING = bytes(48)
"""A ping has the length of an iSCSI header."""


class _Itimerspec(ctypes.Structure):
    """struct itimerspec: interval and value, each in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]


class _Timer:
    """A timerfd; it is readable once the time that was set has come."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed; the proxy needs Linux")

    def set(self, moment: float) -> None:
        """Make the timer go off at ``moment``, by time.monotonic()."""
        # 0 would disarm the timer
        nanoseconds = max(1, round(moment * 1e9))
        value = _Itimerspec(0, 0, nanoseconds // 10**9, nanoseconds % 10**9)
        self._libc.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(value), None)

    def clear(self) -> None:
        """Note that the timer has gone off."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 8)


class _Line:
    """The data on its way, oldest first; None marks the end of a connection's data."""

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
            # If the delay became shorter, later pieces must not overtake earlier ones.
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
    """One end of a connection; it keeps data that comes before the other end exists."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._early: list[bytes | None] = []
        self._to: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio.Transport
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
    """The accepted end; it connects to the server."""

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
    # a late proxy would look like a slow network
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
        """Only `delay_proxy` calls this; it returns one of these."""
        self._process = process

    async def route(self, port: int) -> int:
        """A new port of 127.0.0.1 that leads to ``port``."""
        return int(await self._ask(f"route {port}"))

    async def set_delay(self, seconds: float) -> None:
        """Delay by so much in each direction, from now on."""
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
    """Run a proxy without routes and without delay, until the block ends."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.delay", stdin=pipe, stdout=pipe, start_new_session=True
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
        delay_ms: The delay that was asked for, in each direction.
        round_trip_ms: The time from send to answer, less the time with no delay.
        p99_ms: The 99th percentile of that time.
    """

    delay_ms: float
    round_trip_ms: float
    p99_ms: float


async def measure_accuracy(proxy: DelayProxy, delays_ms: tuple[float, ...]) -> list[Accuracy]:
    """Ping an echo server through the proxy at each delay; at the end the delay is 0."""

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
    """The milliseconds of each ping."""
    times = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        writer.write(_PING)
        await reader.readexactly(len(_PING))
        times.append((time.perf_counter() - began) * 1000)
    return times


if __name__ == "__main__":
    event_loop.run(_serve())
