"""Steps on many devices at once, of which each usually needs one command: no task for each device.

A guest stands still meanwhile. A task, two time limits and a queue for each device take Python longer than
all LUNs together take to answer. Here the first commands go in one write for each session, and their answers
are taken in one pass. A device that needs more than that goes on in the ordinary way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from holdover.agent.guests.loop_throttle import command_throttle
from holdover.agent.guests.step_runner import finish_steps
from holdover.paths.submitted import Submitted
from holdover.reservations.driver import StepRun
from holdover.reservations.steps import StepFailed, Steps, is_in_doubt, is_not_now
from holdover.scsi.command import Command, Response
from holdover.scsi.path import Path, PathError

T = TypeVar("T")

_IN_ONE_TURN = 64
"""Commands that begin in one turn of the event loop; more wait for the next one."""


class BegunSteps(Generic[T]):
    """Steps that have the turn of their device until `end`, and their first command under way."""

    def __init__(
        self,
        path: Path,
        run: StepRun[Command, Response, T],
        submitted: Submitted | None,
        release: Callable[[], None],
    ) -> None:
        """``submitted`` is the first command; None: it was not sent, or the steps need none."""
        self._path = path
        self._run = run
        self._submitted = submitted
        self._release: Callable[[], None] | None = release

    @property
    def waits_for(self) -> asyncio.Future[Response] | None:
        """Done when the first command has ended; None if there is nothing to wait for."""
        return None if self._submitted is None else self._submitted.ended

    @property
    def result(self) -> T:
        """The result of steps that have ended."""
        return self._run.result

    def take_answer(self) -> bool:
        """Give the steps the answer to the first command, if it has come. Whether they have ended now.

        Raises:
            StepFailed: The steps say that they cannot be done.
        """
        if self._run.request is not None and self._submitted is not None and self._submitted.ended.done():
            try:
                response = self._submitted.result()
            except PathError:
                return False
            if is_in_doubt(response) or is_not_now(response):
                return False
            self._submitted = None
            self._run.answer(response)
        return self._run.request is None

    async def finish(self, left: float, limit: float) -> T:
        """Carry out the rest of the steps, then give the turn back. Raises as `finish_steps`."""
        try:
            return await finish_steps(self._path, self._run, self._submitted, left, limit)
        finally:
            self.end()

    def end(self) -> None:
        """Give the turn back; the second time nothing happens."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Device(Protocol):
    """A device on which steps run."""

    def begin(self, steps: Steps[T]) -> BegunSteps[T] | None:
        """Begin steps, if that is possible without waiting; otherwise None, and the steps have not begun."""
        ...

    def run(self, steps: Steps[T], limit: float) -> Awaitable[T]:
        """Carry out steps as soon as the device is free for them."""
        ...


async def run_at_once(
    jobs: Sequence[tuple[Device, Callable[[], Steps[T]]]], limit: float
) -> list[T | StepFailed | PathError]:
    """Carry out steps on each device; return what each returned or raised. ``limit`` is in seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    results: dict[int, T | StepFailed | PathError] = {}
    begun: dict[int, BegunSteps[T]] = {}
    later: dict[int, asyncio.Future[T]] = {}
    try:
        for number, (device, make) in enumerate(jobs):
            if number % _IN_ONE_TURN == 0:
                await command_throttle().wait()
            try:
                steps = device.begin(make())
            except (StepFailed, PathError) as error:
                results[number] = error
                continue
            if steps is None:
                later[number] = asyncio.ensure_future(device.run(make(), limit))
            else:
                begun[number] = steps
        answers = [each.waits_for for each in begun.values() if each.waits_for is not None]
        if answers:
            await asyncio.wait(answers, timeout=until - loop.time())
        for number, each in begun.items():
            try:
                if each.take_answer():
                    results[number] = each.result
                    each.end()
                else:
                    later[number] = asyncio.ensure_future(each.finish(until - loop.time(), limit))
            except (StepFailed, PathError) as error:
                results[number] = error
                each.end()
        if later:
            await asyncio.wait(later.values())
        for number, task in later.items():
            try:
                results[number] = task.result()
            except (StepFailed, PathError) as error:
                results[number] = error
        return [results[number] for number in range(len(jobs))]
    finally:
        for task in later.values():
            task.cancel()
        for each in begun.values():
            each.end()
