"""Virtual time: event loops of several processes that share one clock, with nothing real below them.

Each simulated process has an event loop of its own, a `Process`. All of them share a `Clockwork`, which runs
one callback at a time and moves the clock only when no callback is ready. So nothing takes time but what is
said to take time, and a run is the same each time. To kill a process is to run none of its callbacks any
more: no `finally` of it sends anything, as with ``kill -9``.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import socket
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_EPOCH = 1_800_000_000.0
_MOST_AT_ONCE = 100_000


class Broken(Exception):
    """A promise is broken."""


class Unforeseen(Exception):
    """A callback or a task of a process has raised an error that nobody handles."""


class _Callback(asyncio.TimerHandle):
    """A callback of a process, with the virtual time at which it runs.

    It is made as asyncio makes it, without the two calls and the trace for debuggers: a run makes thousands.
    """

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        process: Process,
        context: contextvars.Context | None,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = process
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False
        self._repr = self._source_traceback = None


class Process(asyncio.AbstractEventLoop):
    """The event loop of one simulated process."""

    def __init__(self, clockwork: Clockwork, name: str) -> None:
        self.name = name
        self.dead = False
        self._kept: set[asyncio.Task[Any]] = set()
        self._clockwork = clockwork

    def kill(self) -> None:
        """End the process as ``kill -9`` does: none of its callbacks runs any more."""
        if not self.dead:
            self.dead = True
            # a task that Python destroys runs its `finally`, which must not happen amid another process
            self._kept = asyncio.all_tasks(self)

    def now(self) -> float:
        """The time in seconds since the epoch."""
        return _EPOCH + self._clockwork.now

    # -- what asyncio needs of a loop ---------------------------------------------------------------

    def time(self) -> float:
        return self._clockwork.now

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        clockwork = self._clockwork
        handle = _Callback(clockwork.now, callback, args, self, context)
        if not self.dead:
            clockwork.ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._clockwork.now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _Callback(when, callback, args, self, context)
        if not self.dead:
            self._clockwork.add_timer(when, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name or "task", context=context)

    async def getaddrinfo(self, host: object, port: object, **_: object) -> list[Any]:
        """The address as it is; nobody connects to it."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))]

    def run_in_executor(self, executor: object, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """What a thread does is done at once."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def add_reader(self, fd: object, callback: object, *args: object) -> None:
        pass

    def remove_reader(self, fd: object) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead and not isinstance(context.get("exception"), MemoryError):
            self._clockwork.unforeseen.append((self.name, context.get("exception"), context["message"]))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead


async def until(condition: Callable[[], bool]) -> None:
    """Return when ``condition`` is true, at the latest a moment after it has become so."""
    while not condition():  # noqa: ASYNC110 - any callback of any process may make it true
        await asyncio.sleep(0.1)


class Clockwork:
    """The clock, and the callbacks of all processes in their order.

    Attributes:
        now: The virtual time in seconds.
        ready: The callbacks that run next, in this order.
        unforeseen: Errors that nobody handled: the process, the error and what asyncio says of it.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: deque[_Callback] = deque()
        self.unforeseen: list[tuple[str, BaseException | None, str]] = []
        self._timers: list[tuple[float, int, _Callback]] = []
        self._number = 0
        self._processes: list[Process] = []

    def process(self, name: str) -> Process:
        """A new process."""
        process = Process(self, name)  # type: ignore[abstract]  # an agent needs no more of a loop
        self._processes.append(process)
        return process

    def add_timer(self, when: float, handle: _Callback) -> None:
        """Have a callback run when its time has come; of two with one time, the one that was added first."""
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))

    def run(self, until: asyncio.Future[Any], limit: float, after: Callable[[Process], None]) -> bool:
        """Run callbacks until ``until`` is done; False if it is not done at the virtual time ``limit``.

        ``after`` is called after each callback, with the process whose callback it was.
        """
        ready, before, count = self.ready, events._get_running_loop(), 0
        running: Process | None = None
        try:
            while not until.done():
                if not ready:
                    if not self._advance(limit):
                        return False
                    count = 0
                handle = ready.popleft()
                process = handle._loop
                if process.dead or handle._cancelled:
                    continue
                if process is not running:
                    events._set_running_loop(process)
                    running = process
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    message = f"Exception in callback {handle!r}"
                    process.call_exception_handler({"message": message, "exception": error})
                count += 1
                if self.unforeseen:
                    self._raise(*self.unforeseen.pop(0))
                after(process)
                if count > _MOST_AT_ONCE:
                    raise Unforeseen(f"more than {_MOST_AT_ONCE} callbacks run at one time: {handle!r}")
        finally:
            events._set_running_loop(before)
        return True

    def _raise(self, name: str, error: BaseException | None, message: str) -> None:
        if isinstance(error, Broken):
            raise error
        raise Unforeseen(f"{name}: {message}: {error!r}") from error

    def _advance(self, limit: float) -> bool:
        """Move the clock to the next timers; False if there are none up to ``limit``."""
        timers = self._timers
        while timers and (timers[0][2]._cancelled or timers[0][2]._loop.dead):
            heapq.heappop(timers)
        if not timers or timers[0][0] > limit:
            return False
        self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            self.ready.append(heapq.heappop(timers)[2])
        return True

    def end(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
        self.ready.clear()
        self._timers.clear()
