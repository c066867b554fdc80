"""Runs the pure steps of a handover over a path."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from holdover.handover.steps import LostAnswer, Steps
from holdover.paths.path import AnswerLost, Path, PathError

__all__ = ["run_steps"]

T = TypeVar("T")

_RETRY_SECONDS = 0.1
"""Between two tries to send a command to a LUN that cannot be reached."""


async def run_steps(path: Path, steps: Steps[T], limit: float) -> T:
    """Carry out ``steps`` on the LUN at the end of ``path`` within ``limit`` seconds.

    A command that could not be sent is sent again until the limit: a target that restarts is a
    moment's matter. One whose answer was lost is left to the steps, which ask the LUN.

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
                    command = steps.send(response)
    except StopIteration as done:
        result: T = done.value
        return result
    except TimeoutError:
        steps.close()
        why = f"; last: {last.problem}" if last is not None else ""
        raise PathError(path.name, f"no answer within {limit:g} s, what is true is in doubt{why}") from last
