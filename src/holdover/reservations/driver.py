"""Drives a generator of steps without I/O: returns the next request, and in the end the result of the
steps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")


class StepRun(Generic[Q, A, T]):
    """One run of a generator of steps.

    Attributes:
        request: The request to carry out next; None when the steps have ended.
        result: The result of the steps. Read it only when the steps have ended.
    """

    request: Q | None
    result: T

    def __init__(self, steps: Generator[Q, A, T]) -> None:
        self._steps = steps
        try:
            self.request = next(steps)
        except StopIteration as done:
            self._end(done)

    def answer(self, answer: A) -> None:
        """Continue with the response to the request."""
        try:
            self.request = self._steps.send(answer)
        except StopIteration as done:
            self._end(done)

    def fail(self, error: Exception) -> None:
        """Continue with an error: the request was not, or may not have been, carried out. The steps handle
        the error or raise it.
        """
        try:
            self.request = self._steps.throw(error)
        except StopIteration as done:
            self._end(done)

    def close(self) -> None:
        """End the steps where they are."""
        self._steps.close()

    def _end(self, done: StopIteration) -> None:
        self.request, self.result = None, done.value


def observing(steps: Generator[Q, A, T], observe: Callable[[A], None]) -> Generator[Q, A, T]:
    """The same steps; ``observe`` is called with every response before the steps get it. An error ends the
    steps.
    """
    run = StepRun(steps)
    while run.request is not None:
        answer = yield run.request
        observe(answer)
        run.answer(answer)
    return run.result


def run_sync(steps: Generator[Q, A, T], carry_out: Callable[[Q], A]) -> T:
    """Carry out the steps and return their result. An error of ``carry_out`` is thrown into the steps."""
    run = StepRun(steps)
    while run.request is not None:
        try:
            answer = carry_out(run.request)
        except Exception as error:
            run.fail(error)
        else:
            run.answer(answer)
    return run.result


async def run_async(steps: Generator[Q, A, T], carry_out: Callable[[Q], Awaitable[A]]) -> T:
    """As `run_sync`, for a ``carry_out`` that is awaited."""
    return await finish(StepRun(steps), carry_out)


async def finish(run: StepRun[Q, A, T], carry_out: Callable[[Q], Awaitable[A]]) -> T:
    """Carry out the rest of a run."""
    while run.request is not None:
        try:
            answer = await carry_out(run.request)
        except Exception as error:
            run.fail(error)
        else:
            run.answer(answer)
    return run.result
