"""The executor's loop, the same on both hosts: it gives one event after another to the rules, and carries out
the effects.

It decides nothing. `holdover.handover.agenda` says what to handle next. The rules say what follows from that,
and which effects must wait for the disk (`holdover.handover.effects`).
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

import structlog

from holdover.agent.handover.executor import HandoverExecutor
from holdover.handover.agenda import Activity, Agenda
from holdover.handover.effects import EffectKind, Effects, WorkOrder
from holdover.handover.patience import Patience
from holdover.handover.protocol import Answer, Destination, EventNotAllowed, HandoverEvent, Message, Source
from holdover.handover.states import Event

log = structlog.get_logger()

M = TypeVar("M", Source, Destination)

_TURNS_OF_AN_ANSWER = 4
"""Turns of the event loop in which an answer passes from here to the socket."""

What = HandoverEvent | Message
_Waiter = asyncio.Future[Answer | None]
"""A waiter: for the answer to a message, or until the handover is at rest or cannot go on."""


class HandoverDriver(ABC, Generic[M]):
    """The loop of one handover on one host.

    Attributes:
        handover_id: The id of the handover.
        state_machine: The current state; None until the first message has arrived. What is on record may be
            older (`HandoverExecutor.written`).
        executor: What has the guest's devices, and the records.
    """

    def __init__(self, handover_id: str, state_machine: M | None, executor: HandoverExecutor) -> None:
        self.handover_id = handover_id
        self.state_machine: M | None = state_machine
        self.executor = executor
        self._limits = executor.guest.limits
        self._agenda: Agenda[_Waiter] = Agenda()
        self._patience = Patience(self._limits.give_up)
        self._mark = 0
        """The position in the spans at which the current state has begun."""
        self._wake = asyncio.Event()
        self._activity: asyncio.Task[HandoverEvent] | None = None
        self._task: asyncio.Task[None] | None = None
        executor.on_problem = self._tell_everybody

    # -- what each host does differently -------------------------------------------------------------

    @abstractmethod
    def _step(self, what: What) -> tuple[M | None, Effects]:
        """The new state and its effects, which the rules return for an event or a message."""

    @abstractmethod
    def _is_allowed(self, what: What) -> bool:
        """Whether the rules allow a request now."""

    @abstractmethod
    def _is_over(self) -> bool:
        """Whether nothing is left to do, until somebody asks again."""

    def _is_quiet(self, state_machine: M) -> bool:  # noqa: ARG002
        """Whether the state that was entered need not be logged."""
        return False

    async def _deliver(self, message: Message) -> HandoverEvent:
        """Send the destination a message; return the event in which that ends."""
        raise NotImplementedError

    def _due(self) -> tuple[float | None, HandoverEvent | None]:
        """The event that happens by itself if no other one does, and the seconds until then."""
        return None, None

    # -- from outside --------------------------------------------------------------------------------

    def restart(self) -> None:
        """Continue after a restart of the agent."""
        self._go(HandoverEvent(Event.RESTARTED, devices=self.executor.views()))

    async def _ask(self, what: What | None) -> Answer | None:
        """Ask for ``what``, and wait; if it is None, only wait."""
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        if what is None:
            self._agenda.wait(waiter)
        else:
            self._agenda.ask(what, waiter)
        self._wake.set()
        if not self._runs:
            self._go_on()
        return await asyncio.shield(waiter)

    @property
    def _runs(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def _has_failed(self) -> bool:
        """Whether an unexpected error has ended the loop: then the state may not be on record."""
        task = self._task
        return task is not None and task.done() and (task.cancelled() or task.exception() is not None)

    async def close(self) -> None:
        """Stop the handover in its present state; the journal has all of it."""
        for task in (self._task, self._activity):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        for waiter in self._agenda.everybody():
            waiter.cancel()

    # -- the loop ------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Start the loop, because there is a request while the loop does not run."""
        if self._has_failed and self.state_machine is not None:
            self.restart()
        else:
            self._go(None)

    def _go(self, first: What | Effects | None) -> None:
        self._task = asyncio.ensure_future(self._drive(first))

    async def _drive(self, first: What | Effects | None) -> None:
        try:
            if isinstance(first, Effects):
                self._record(self.state_machine, first)
                await self._carry_out(first)
            elif first is not None:
                await self._handle(first)
            while (what := await self._next()) is not None:
                await self._handle(what)
        except Exception as error:
            log.error(
                "A handover has stopped after an unexpected error.",
                guest=self.executor.guest.name,
                handover_id=self.handover_id,
                exc_info=error,
            )
            await self._end_activity()
            for waiter in self._agenda.everybody():
                _fail(waiter, error)
            raise

    async def _next(self) -> What | None:
        """What to handle next; None when the handover is over."""
        while True:
            self._wake.clear()
            if self._activity is not None and self._activity.done():
                happened, self._activity = self._activity.result(), None
                self._agenda.end(happened)
            turn = self._agenda.next(self._is_allowed)
            self._refuse(turn.refused)
            if turn.what is not None:
                return turn.what
            if self._agenda.activity in (Activity.NONE, Activity.PAUSE):
                await self.executor.flush()
                # Requests that came while the disk was at work are handled first.
                if not self._wake.is_set():
                    self._tell_if_at_rest()
                    if self._agenda.activity is Activity.NONE and self._is_over():
                        return None
            if not self._wake.is_set():
                seconds, by_itself = self._due()
                if not await self._woken(seconds) and by_itself is not None:
                    return by_itself

    async def _woken(self, seconds: float | None) -> bool:
        """Wait until something happens; False if nothing has happened within that time."""
        if seconds is None:
            return await self._wake.wait()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return self._wake.is_set()
        return True

    async def _handle(self, what: What) -> None:
        try:
            state_machine, effects = self._step(what)
        except EventNotAllowed:
            if not isinstance(what, HandoverEvent) or what.event is not Event.CHANGED:
                raise
            guest = self.executor.guest.name
            log.error(
                "A guest changed its reservations while its commands were held.",
                guest=guest,
                handover_id=self.handover_id,
            )
            return
        if effects.gate is not None:
            await self._end_activity()
        # If this fails, the handover is in its old state yet, and is begun anew from there.
        self._record(state_machine, effects)
        before, self.state_machine = self.state_machine, state_machine
        if state_machine is not None and (before is None or state_machine.state is not before.state):
            self._patience.renew()
            self._mark = self.executor.spans.mark()
            self.executor.spans.state(state_machine.state.value)
            self.executor.phases.enter(state_machine.state)
            if not self._is_quiet(state_machine):
                _log(state_machine, what)
        await self._carry_out(effects)

    def _record(self, state_machine: M | None, effects: Effects) -> None:
        if state_machine is not None:
            self.executor.record(state_machine, effects)

    async def _carry_out(self, effects: Effects) -> None:
        executor = self.executor
        if self.state_machine is not None:
            if EffectKind.ANSWER not in effects.durable_first and self._answer(effects):
                await _answers_have_left()  # before the gate, which may wait for the disk
            await executor.open(effects)
        if effects.work is not None:
            self._begin_work(effects.work, effects)
        if effects.message is not None:
            await executor.flush_for(EffectKind.MESSAGE, effects)
            self._begin(self._tell(effects.message, effects.again), effects.again)
        if EffectKind.ANSWER in effects.durable_first and effects.answer is not None:
            await executor.flush_for(EffectKind.ANSWER, effects)
            self._answer(effects)
        if effects.tells_now:
            await executor.flush_for(EffectKind.ANSWER, effects)
            self._tell_all()
            if EffectKind.ANSWER not in effects.durable_first:
                await _answers_have_left()

    def _answer(self, effects: Effects) -> bool:
        """Answer the message that was handled; whether somebody waited for that."""
        waiter = None if effects.answer is None else self._agenda.answered()
        if waiter is None:
            return False
        _give(waiter, effects.answer)
        return True

    # -- activities ----------------------------------------------------------------------------------

    def _begin_work(self, ordered: WorkOrder, effects: Effects) -> None:
        happened = self.executor.work_at_once(ordered, effects)
        if happened is None:
            self._begin(self._work(ordered, effects), effects.again)
        else:
            self._agenda.end(happened)  # without a turn of the event loop, for which a guest may stand still

    def _begin(self, what: Coroutine[Any, Any, HandoverEvent], again: bool) -> None:
        self._agenda.activity = Activity.PAUSE if again else self._active()
        self._activity = asyncio.ensure_future(what)
        self._activity.add_done_callback(lambda _: self._wake.set())

    def _active(self) -> Activity:
        return Activity.WORK

    async def _pause(self, again: bool) -> None:
        if again:
            await asyncio.sleep(self._patience.next_pause())
        self._agenda.activity = self._active()

    async def _work(self, ordered: WorkOrder, effects: Effects) -> HandoverEvent:
        await self._pause(effects.again)
        return await self.executor.work(ordered, effects)

    async def _tell(self, message: Message, again: bool) -> HandoverEvent:
        await self._pause(again)
        return await self._deliver(message)

    async def _end_activity(self) -> None:
        """End the activity, because another state is entered: a pause before a retry, or a recheck."""
        if self._activity is not None:
            self._activity.cancel()
            await asyncio.wait([self._activity])
            self._activity = None
        self._agenda.drop_activity()

    # -- those who wait ------------------------------------------------------------------------------

    def _tell_if_at_rest(self) -> None:
        """Answer the waiters, if the handover is at rest or cannot go on."""
        state_machine = self.state_machine
        now = asyncio.get_running_loop().time()
        is_stuck = state_machine is not None and state_machine.problem and not self._patience.still_tries(now)
        if self._agenda.activity is Activity.NONE or is_stuck:
            self._refuse(self._agenda.refused())
            self._tell_all()

    def _tell_all(self) -> None:
        for waiter in self._agenda.accepted():
            _give(waiter, None)

    def _tell_everybody(self) -> None:
        """Answer all waiters but those of messages, because nothing can be put on record."""
        self._tell_all()
        for _, waiter in self._agenda.refused():
            _give(waiter, None)

    def _refuse(self, refused: tuple[tuple[What, _Waiter], ...]) -> None:
        state = "" if self.state_machine is None else self.state_machine.state.value
        for what, waiter in refused:
            _fail(waiter, EventNotAllowed(f"{_name_of(what)}: the handover is {state}"))


async def _answers_have_left() -> None:
    """Let the tasks of those who were answered send that on.

    A guest stands still for it, and the records that follow keep both the loop and the interpreter busy.
    """
    for _ in range(_TURNS_OF_AN_ANSWER):
        await asyncio.sleep(0)


def _name_of(what: What) -> str:
    return what.event.value if isinstance(what, HandoverEvent) else what.kind.value


def _log(state_machine: Source | Destination, what: What) -> None:
    log.info(
        "A handover has entered a state.",
        guest=state_machine.guest,
        handover_id=state_machine.handover_id,
        state=state_machine.state.value,
        after=_name_of(what),
        reason=what.problem if isinstance(what, HandoverEvent) else "",
    )


def _give(waiter: _Waiter, answer: Answer | None) -> None:
    if not waiter.done():
        waiter.set_result(answer)


def _fail(waiter: _Waiter, error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
