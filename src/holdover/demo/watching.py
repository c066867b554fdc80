"""The recorder of what happens in an act, as the processes report it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from holdover.demo.messages import Ready, Report, Tick
from holdover.demo.processes import Child, DemoFailed
from holdover.migrate.result import Progress


@dataclass
class Recording:
    """What happened and when, in CLOCK_MONOTONIC seconds from `began` on."""

    began: float = field(default_factory=time.monotonic)
    ticks: list[Tick] = field(default_factory=list)
    steps: list[tuple[float, Progress]] = field(default_factory=list)
    holders: list[tuple[float, str | None]] = field(default_factory=list)
    stopped: float | None = None
    resumed: float | None = None
    ended: float | None = None

    @property
    def now(self) -> float:
        """Seconds since the act began."""
        return time.monotonic() - self.began


class ProgressListener:
    """The reader of a process's messages: ticks go into the recording, answers to the caller who waits."""

    def __init__(self, child: Child, recording: Recording, watch: Callable[[Recording], None]) -> None:
        self._child = child
        self._recording = recording
        self._watch = watch
        self._answers: asyncio.Queue[Ready | Report | DemoFailed] = asyncio.Queue()
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            while True:
                said = await self._child.said()
                if isinstance(said, Tick):
                    self._recording.ticks.append(said)
                    self._watch(self._recording)
                else:
                    self._answers.put_nowait(said)
        except DemoFailed as error:
            self._answers.put_nowait(error)

    async def ready(self) -> Ready:
        """The next answer, which must be *ready*; any other raises DemoFailed."""
        answer = await self._answers.get()
        if not isinstance(answer, Ready):
            raise self._unexpected(answer)
        return answer

    async def report(self) -> Report:
        """The next answer, which must be a report; any other raises DemoFailed."""
        answer = await self._answers.get()
        if not isinstance(answer, Report):
            raise self._unexpected(answer)
        return answer

    def _unexpected(self, answer: Ready | Report | DemoFailed) -> DemoFailed:
        if isinstance(answer, DemoFailed):
            return answer
        return DemoFailed(f"{self._child.name} said {answer} out of turn")

    async def end(self) -> None:
        """Stop listening."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
