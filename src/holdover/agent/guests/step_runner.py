"""Runs the pure steps of a handover over a path, one command after the other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from holdover.agent.guests.loop_throttle import LoopThrottle, command_throttle
from holdover.metrics.durations import Durations
from holdover.paths.submitted import Submitted, can_submit
from holdover.reservations.driver import StepRun, finish
from holdover.reservations.steps import Steps, is_in_doubt, is_not_now
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, Path, PathError
from holdover.scsi.sense import describe_response

T = TypeVar("T")

_RETRY_SECONDS = 0.1
"""The seconds between two tries to send a command to a LUN that cannot be reached."""


async def run_steps(path: Path, steps: Steps[T], limit: float) -> T:
    """Carry out ``steps`` on the LUN at the end of ``path`` within ``limit`` seconds; return their result.

    Raises as `finish_steps`.
    """
    return await finish_steps(path, StepRun(steps), None, limit, limit)


async def finish_steps(
    path: Path, run: StepRun[Command, Response, T], first: Submitted | None, left: float, limit: float
) -> T:
    """Carry out the rest of a run; ``first`` is its request, if that is under way already. ``left`` seconds
    of ``limit`` are left.

    A command that could not be sent, or that met a busy LUN, is sent again until the limit: a target restarts
    in a moment. If the response to a command was lost, or the command was aborted, the steps decide: they ask
    the LUN.

    Raises:
        StepFailed: The steps say that they cannot be done.
        PathError: The limit was reached. The last command may or may not have been carried out.
    """
    sender = _Sender(path, first)
    try:
        async with asyncio.timeout(left):
            return await finish(run, sender.send)
    except TimeoutError:
        run.close()
        last = sender.last
        why = f"; last: {last.problem}" if last is not None else ""
        problem = (
            f"the LUN has not answered within {limit:.3g} s; the command may have been carried out or not"
            f"{why}"
        )
        raise PathError(path.name, problem) from last


class _Sender:
    """Sends commands until they are answered or their answer is lost.

    Attributes:
        last: Why the last command had to be sent again, or why its answer is in doubt.
    """

    def __init__(self, path: Path, first: Submitted | None) -> None:
        self._path = path
        self._first = first
        self.last: PathError | None = None

    async def send(self, command: Command) -> Response:
        """Send one command; AnswerLost where its answer was lost, or it was aborted."""
        while True:
            try:
                response = await self._execute(command)
            except AnswerLost as error:
                self.last = error
                raise
            except PathError as error:
                self.last = error
            else:
                if is_in_doubt(response):
                    self.last = lost = AnswerLost(self._path.name, describe_response(response))
                    await asyncio.sleep(_RETRY_SECONDS)
                    raise lost
                if not is_not_now(response):
                    return response
                self.last = PathError(self._path.name, describe_response(response))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _execute(self, command: Command) -> Response:
        first, self._first = self._first, None
        if first is None:
            return await self._path.execute(command)
        await asyncio.wait([first.ended])
        return first.result()


class OneByOne:
    """A path that sends the next command only after the last one has ended.

    A command goes on even if its caller no longer waits: after a time limit it may still be under way. A
    PREEMPT that comes late must not overtake the commands that ask the LUN what is true.
    """

    def __init__(
        self,
        path: Path,
        observe: Callable[[Command, Response], None],
        sending: Callable[[Command], None] = lambda _: None,
        durations: Durations | None = None,
    ) -> None:
        """``observe`` is called with every response, even if nobody waits for it any more. ``sending`` is
        called with every command before it is sent. ``durations`` counts the round trips."""
        self._path = path
        self._submits = path if can_submit(path) else None
        self._sending = sending
        self._observe = observe
        self._durations = durations
        self._last: asyncio.Future[Response] | None = None
        self._throttle: LoopThrottle | None = None

    @property
    def name(self) -> str:
        """The path's name."""
        return self._path.name

    @property
    def nexuses(self) -> int:
        """How many I_T nexuses the path has."""
        return self._path.nexuses

    @property
    def idle(self) -> bool:
        """Whether no command is under way."""
        return self._last is None or self._last.done()

    async def execute(self, command: Command) -> Response:
        """Wait for the end of the last command, then send this one; a cancel only stops the waiting.

        Raises:
            PathError, AnswerLost: As the path does.
        """
        if not self.idle:
            await self.ended()
        loop = asyncio.get_running_loop()
        self._last = last = loop.create_task(self._execute(command))
        # Awaiting the task itself would cancel the task with the caller. asyncio.wait would cost a sixth of
        # all the work of an agent that starts.
        ended = loop.create_future()
        last.add_done_callback(partial(_look_at, ended))
        await ended
        if self._last is last:
            self._last = None  # nothing needs to keep its response
        return last.result()

    @property
    def submits(self) -> bool:
        """Whether the path can send a command without waiting, at least at some moments."""
        return self._submits is not None

    def submit(self, command: Command) -> Submitted | None:
        """Send a command while none is under way; None if that is not possible without waiting."""
        began = time.perf_counter()
        submitted = None if self._submits is None else self._submits.submit(command)
        if submitted is None:
            return None
        self._sending(command)
        self._last = submitted.ended
        self._last.add_done_callback(lambda _: self._submitted_has_ended(command, submitted, began))
        return submitted

    def _submitted_has_ended(self, command: Command, submitted: Submitted, began: float) -> None:
        if self._last is submitted.ended:
            self._last = None
        with contextlib.suppress(PathError, asyncio.CancelledError):
            self._has_ended(command, submitted.result(), began)

    async def _execute(self, command: Command) -> Response:
        if self._throttle is None:
            self._throttle = command_throttle()
        await self._throttle.wait()
        self._sending(command)
        began = time.perf_counter()
        response = await self._path.execute(command)
        self._has_ended(command, response, began)
        return response

    def _has_ended(self, command: Command, response: Response, began: float) -> None:
        if self._durations is not None:
            self._durations.observe(time.perf_counter() - began)
        self._observe(command, response)

    async def ended(self) -> None:
        """Wait until no command is under way."""
        while self._last is not None and not self._last.done():
            await asyncio.wait([self._last])

    async def close(self) -> None:
        """Stop waiting for a command that is under way; the path stays open."""
        if self._last is not None and not self._last.done():
            self._last.cancel()
            await asyncio.wait([self._last])


def _look_at(ended: asyncio.Future[None], task: asyncio.Task[Response]) -> None:
    if not ended.done():
        ended.set_result(None)
    # Read the error, or asyncio complains that nobody has read it.
    if not task.cancelled():
        task.exception()
