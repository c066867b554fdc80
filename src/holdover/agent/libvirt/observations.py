"""What this host does after an event of a QEMU here; one event after the other for each guest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from holdover.agent.libvirt.facts import Facts
from holdover.agent.libvirt.peer_questions import PeerQuestions
from holdover.libvirt.policy import Other, Refusal, Seen, Task, Whereabouts, observe

log = structlog.get_logger()

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class Tasks(Protocol):
    """What carries out a task, and names the hosts that it concerns."""

    def questions(self, guest: str, uuid: str) -> PeerQuestions:
        """The questions to other hosts about a guest."""
        ...

    async def carry_out(self, task: Task, guest: str, questions: PeerQuestions) -> Other | None:
        """Do a task; return what other hosts have said, if they were asked."""
        ...

    def refusal(self, refusal: Refusal, guest: str, questions: PeerQuestions, where: Whereabouts) -> str:
        """The text of a refusal."""
        ...


class Observations:
    """The work after events, by guest."""

    def __init__(
        self,
        facts: Facts,
        tasks: Tasks,
        runs: Callable[[str], Awaitable[bool]],
        failures: tuple[type[Exception], ...],
    ) -> None:
        """``runs`` returns whether libvirt says that a guest runs here; ``failures``: how a task may fail."""
        self._facts = facts
        self._tasks = tasks
        self._runs = runs
        self._failures = failures
        self._pending: dict[str, deque[tuple[str, Seen]]] = {}
        self._work: dict[str, asyncio.Task[None]] = {}

    def add(self, guest: str, uuid: str, seen: Seen) -> None:
        """libvirt has passed something on."""
        self._pending.setdefault(guest, deque()).append((uuid, seen))
        if guest not in self._work:
            work = self._work[guest] = asyncio.ensure_future(self._work_on(guest))
            work.add_done_callback(lambda done: self._done(guest, done))

    def _done(self, guest: str, work: asyncio.Task[None]) -> None:
        del self._work[guest]
        self._pending.pop(guest, None)
        if not work.cancelled() and (error := work.exception()) is not None:
            log.error(
                "The work after an event of a QEMU process has failed unexpectedly.",
                guest=guest,
                exc_info=error,
            )

    async def _work_on(self, guest: str) -> None:
        pending = self._pending[guest]
        while pending:
            uuid, seen = pending.popleft()
            await self._react(guest, uuid, seen)

    async def _react(self, guest: str, uuid: str, seen: Seen) -> None:
        other, failed, pause = Other.UNASKED, False, _FIRST_PAUSE
        questions = self._tasks.questions(guest, uuid)
        while True:
            known = self._facts.observed(guest, uuid, other, failed=failed)
            decision = observe(seen, known)
            if decision.refusal is not None:
                text = self._tasks.refusal(decision.refusal, guest, questions, known.place)
                log.error("The QEMU of a guest runs that must not run here.", guest=guest, reason=text)
                return
            if decision.task is None:
                return
            # the event may be out of date
            if seen is Seen.RUNS and not await self._runs(guest):
                return
            if decision.task is Task.TRY_AGAIN:
                await asyncio.sleep(pause)
                other, failed, pause = Other.UNASKED, False, min(pause * 2, _LONGEST_PAUSE)
                continue
            log.info(
                "Libvirt has passed on an event of a QEMU process.",
                guest=guest,
                seen=seen.value,
                task=decision.task.value,
            )
            try:
                other = await self._tasks.carry_out(decision.task, guest, questions) or other
            except self._failures as error:
                failed = True
                log.warning(
                    "A task after an event of a QEMU process has failed.",
                    guest=guest,
                    task=decision.task.value,
                    reason=str(error),
                )

    async def close(self) -> None:
        """Stop."""
        work = list(self._work.values())
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)
