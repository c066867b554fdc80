"""Runs the pure steps of a handover over a path, one command after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from holdover.agent.pace import command_pace
from holdover.handover.steps import LostAnswer, Steps, is_in_doubt, is_not_now
from holdover.paths.path import AnswerLost, Path, PathError
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import describe_response

__all__ = ["OneByOne", "run_steps"]

T = TypeVar("T")

_RETRY_SECONDS = 0.1
"""Between two tries to send a command to a LUN that cannot be reached."""


async def run_steps(path: Path, steps: Steps[T], limit: float) -> T:
    """Carry out ``steps`` on the LUN at the end of ``path`` within ``limit`` seconds.

    A command that could not be sent is sent again until the limit: a target that restarts is a
    moment's matter, and so is a LUN that is busy. One whose answer was lost, or that was aborted, is left to
    the steps, which ask the LUN.

    Raises:
        StepFailed: The steps say that they cannot be done.
        PathError: The limit was reached; what was sent last may or may not have been carried out.
    """
    last: PathError | None = None
    try:
        async with asyncio.timeout(limit):
            command = next(steps)
            while True:
                try:
                    response = await path.execute(command)
                except AnswerLost as error:
                    last = error
                    command = steps.throw(LostAnswer())
                except PathError as error:
                    last = error
                    await asyncio.sleep(_RETRY_SECONDS)
                else:
                    if is_not_now(response):
                        last = PathError(path.name, describe_response(response))
                        await asyncio.sleep(_RETRY_SECONDS)
                    elif is_in_doubt(response):
                        last = AnswerLost(path.name, describe_response(response))
                        await asyncio.sleep(_RETRY_SECONDS)
                        command = steps.throw(LostAnswer())
                    else:
                        command = steps.send(response)
    except StopIteration as done:
        result: T = done.value
        return result
    except TimeoutError:
        steps.close()
        why = f"; last: {last.problem}" if last is not None else ""
        raise PathError(path.name, f"no answer within {limit:.3g} s, what is true is in doubt{why}") from last


class OneByOne:
    """A path on which the next command is sent when the last one has ended, and not before.

    A command is not abandoned with who waited for it: after a time limit it may still be under way, and a
    PREEMPT that comes late must not overtake the question what is true.
    """

    def __init__(self, path: Path, notice: Callable[[Command, Response], None]) -> None:
        """``notice`` is told of every response, also of one that nobody waits for any more."""
        self._path = path
        self._notice = notice
        self._last: asyncio.Task[Response] | None = None

    @property
    def name(self) -> str:
        """The path's name."""
        return self._path.name

    @property
    def nexuses(self) -> int:
        """How many I_T nexuses the path is."""
        return self._path.nexuses

    @property
    def idle(self) -> bool:
        """Whether no command is under way."""
        return self._last is None or self._last.done()

    async def execute(self, command: Command) -> Response:
        """Wait for the end of the last command, then send this one; cancelling it stops the waiting alone.

        Raises:
            PathError, AnswerLost: As the path does.
        """
        await self.ended()
        loop = asyncio.get_running_loop()
        self._last = last = loop.create_task(self._execute(command))
        # unlike awaiting the task, this does not cancel it; asyncio.wait would cost a sixth of all that an
        # agent does when it starts
        ended = loop.create_future()
        last.add_done_callback(partial(_look_at, ended))
        await ended
        if self._last is last:
            self._last = None  # its response need not be kept
        return last.result()

    async def _execute(self, command: Command) -> Response:
        await command_pace().wait()
        response = await self._path.execute(command)
        self._notice(command, response)
        return response

    async def ended(self) -> None:
        """Wait until no command is under way."""
        while self._last is not None and not self._last.done():
            await asyncio.wait([self._last])

    async def close(self) -> None:
        """Wait no more for a command that is under way; the path stays open."""
        if self._last is not None and not self._last.done():
            self._last.cancel()
            await asyncio.wait([self._last])


def _look_at(ended: asyncio.Future[None], task: asyncio.Task[Response]) -> None:
    if not ended.done():
        ended.set_result(None)
    # else asyncio complains of an error that nobody waited for
    if not task.cancelled():
        task.exception()
