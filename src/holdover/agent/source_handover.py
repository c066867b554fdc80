"""A handover on the host that the guest leaves: carries out what `holdover.handover.protocol` decides.

One task drives it, so that one event is dealt with after the other: what the guest has changed, how the
activity of the state has ended, what was asked. While work or a message is under way what is asked waits; the
pause before something is tried again does not keep it waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from holdover.agent.carrying_out import Workshop
from holdover.agent.client import AgentError
from holdover.agent.device import GuestDevice
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import (
    Answer,
    Answered,
    DoWork,
    Effect,
    Happened,
    Message,
    Open,
    ProtocolError,
    Source,
    Tell,
    Write,
    source_step,
)
from holdover.handover.states import SOURCE, Event, SourceState
from holdover.handover.work import Work

__all__ = ["Send", "SourceHandover"]

log = structlog.get_logger()

Send = Callable[[Message], Awaitable[Answer]]
"""Tells the destination something; raises `AgentError` where no answer came."""

_ANSWERS = {Answered.DONE: Event.TOLD, Answered.REFUSED: Event.REFUSED, Answered.TAKEN: Event.TAKEN}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class _Ask:
    """Something that was asked for, and is waited for."""

    def __init__(self, happened: Happened) -> None:
        self.happened = happened
        self.done: asyncio.Future[Source] = asyncio.get_running_loop().create_future()

    def answer(self, machine: Source) -> None:
        if not self.done.done():
            self.done.set_result(machine)

    def refuse(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class SourceHandover:
    """Drives one `Source`.

    Attributes:
        machine: As it stands; what follows from it is seen when it is in the journal (`Workshop.written`).
    """

    def __init__(self, machine: Source, workshop: Workshop, send: Send) -> None:
        self.machine = machine
        self._workshop = workshop
        self._send = send
        self._limits = workshop.guest.limits
        self._wake = asyncio.Event()
        self._news: deque[MovingLun] = deque()
        self._asks: deque[_Ask] = deque()
        self._waiting: list[_Ask] = []
        self._activity: asyncio.Task[Happened] | None = None
        self._pausing = False
        self._pause = _FIRST_PAUSE
        self._unreached_since: float | None = None
        self._recheck: tuple[Source, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._began = asyncio.get_running_loop().time()
        workshop.on_problem = self._answer_all

    @property
    def handover(self) -> str:
        """Its identity."""
        return self.machine.handover

    @property
    def workshop(self) -> Workshop:
        """The devices, and what took how long."""
        return self._workshop

    # -- from outside -------------------------------------------------------------------------------

    def start(self, effects: tuple[Effect, ...]) -> None:
        """Begin it."""
        self._go(self._carry_out(effects, self.machine))

    def restart(self, news: tuple[MovingLun, ...]) -> None:
        """Go on after the agent was started anew; ``news``: LUNs of which the device knows something else."""
        self._go(self._step(Happened(Event.RESTARTED, news)))

    async def settled(self) -> Source:
        """Wait until it is at rest, over or stuck."""
        if self._task is None or (self._task.done() and not self.machine.is_open):
            return self.machine
        if self._task.done():
            await self._begin_anew()
        ask = _Ask(Happened(Event.ASKED_CHECK))
        self._waiting.append(ask)
        self._wake.set()
        return await asyncio.shield(ask.done)

    async def ask(self, event: Event, problem: str = "") -> Source:
        """Ask for something and wait until the handover is at rest, over or stuck.

        Raises:
            ProtocolError: It has no meaning in the state in which the handover is then.
        """
        if not self.machine.is_open and (self._task is None or self._task.done()):
            source_step(self.machine, Happened(event, problem=problem))
            return self.machine
        if self._task is None:
            raise ProtocolError(
                f"{event.value}: this agent has begun anew, and has not found all LUNs of the guest yet; "
                "ask again in a moment"
            )
        if self._task.done():
            await self._begin_anew()
        ask = _Ask(Happened(event, problem=problem))
        self._asks.append(ask)
        self._wake.set()
        return await asyncio.shield(ask.done)

    async def _begin_anew(self) -> None:
        """The driver was ended by what it did not foresee: go on as after a restart of the agent."""
        if self._activity is not None:
            await self._end_pause()
        self._pausing, self._recheck = False, None
        self._waiting.clear()
        self._asks.clear()
        self.restart(())

    def guest_changed(self, device: GuestDevice) -> None:
        """The guest has changed its registration or reservation on one LUN."""
        if device.designator is not None:
            self._news.append(MovingLun(str(device.designator), tracked=device.tracked))
            self._wake.set()

    async def close(self) -> None:
        """Stop where it stands; the journal has all of it."""
        for task in (self._task, self._activity):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        for ask in (*self._waiting, *self._asks):
            ask.done.cancel()

    # -- the driver ---------------------------------------------------------------------------------

    def _go(self, first: Coroutine[Any, Any, None]) -> None:
        for device in self._workshop.guest.devices:
            device.on_guest_change = self.guest_changed
        self._workshop.spans.state(self.machine.state.value)
        self._task = asyncio.ensure_future(self._drive(first))

    async def _drive(self, first: Coroutine[Any, Any, None]) -> None:
        try:
            await first
            while (happened := await self._next()) is not None:
                await self._step(happened)
            for ask in (*self._waiting, *self._asks):
                self._end(ask)
        except Exception as error:
            log.error("a handover stops", handover=self.machine.handover, exc_info=error)
            for ask in (*self._waiting, *self._asks):
                ask.refuse(error)
            raise
        finally:
            for device in self._workshop.guest.devices:
                if device.on_guest_change == self.guest_changed:
                    device.on_guest_change = None

    async def _next(self) -> Happened | None:
        """The next event; None when the handover is over."""
        while True:
            self._wake.clear()
            if self._news:
                return self._take_news()
            if self._activity is not None and self._activity.done():
                happened = self._activity.result()
                self._activity = None
                return happened
            await self._leave_recheck()
            if self._activity is None or self._pausing:
                ask = await self._take_ask()
                if ask is not None:
                    return ask.happened
                await self._workshop.flush()
                if not self.machine.is_open:
                    return None
                self._answer_if_at_rest()
            if not self._wake.is_set() and not await self._woken():
                return self._by_the_clock()

    def _take_news(self) -> Happened:
        newest = {lun.designator: lun for lun in self._news}
        self._news.clear()
        return Happened(Event.CHANGED, tuple(newest.values()))

    async def _take_ask(self) -> _Ask | None:
        """What was asked for first of all that has a meaning now."""
        at_rest = self._activity is None
        for ask in tuple(self._asks):
            if ask.happened.event in SOURCE[self.machine.state]:
                self._asks.remove(ask)
                self._waiting.append(ask)
                await self._end_pause()
                return ask
            if at_rest:
                self._asks.remove(ask)
                ask.refuse(self._no_meaning(ask))
        return None

    def _no_meaning(self, ask: _Ask) -> ProtocolError:
        return ProtocolError(f"{ask.happened.event.value}: the handover is {self.machine.state.value}")

    async def _end_pause(self) -> None:
        if self._activity is not None:
            self._activity.cancel()
            await asyncio.wait([self._activity])
            self._activity = None

    async def _woken(self) -> bool:
        """Wait for something to happen; False when it is time to look at what was prepared once more."""
        at_rest = self.machine.state is SourceState.PREPARED and self._activity is None
        try:
            async with asyncio.timeout(self._limits.recheck if at_rest else None):
                await self._wake.wait()
        except TimeoutError:
            return self._wake.is_set()
        return True

    def _by_the_clock(self) -> Happened:
        if asyncio.get_running_loop().time() - self._began > self._limits.handover:
            problem = f"it was prepared for longer than {self._limits.handover:g} s (limits.handover)"
            return Happened(Event.ASKED_ROLL_BACK, problem=problem)
        self._recheck = self.machine, self._workshop.spans.mark()
        return Happened(Event.ASKED_CHECK)

    async def _leave_recheck(self) -> None:
        """Commit was asked for while what was prepared is looked at once more: the guest stands still, and
        will be looked at in time. Nobody has seen anything of it, and nothing of it is in the journal."""
        if self._recheck is None or self.machine.state is not SourceState.CONFIRMING:
            return
        before, mark = self._recheck
        asked = any(ask.happened.event is Event.ASKED_COMMIT for ask in self._asks)
        if asked and self._workshop.written == before and self.machine.changed == before.changed:
            await self._end_pause()
            self._workshop.forget_notes()
            self._workshop.spans.forget_since(mark)
            self.machine, self._recheck = before, None

    async def _step(self, happened: Happened) -> None:
        before = self.machine
        try:
            machine, effects = source_step(before, happened)
        except ProtocolError:
            if happened.event is not Event.CHANGED:
                raise
            log.error("the guest changed something while its commands were held", guest=before.guest)
            return
        if machine.state is not before.state:
            self._entered(machine, happened)
        self.machine = machine
        await self._carry_out(effects, before)

    def _entered(self, machine: Source, happened: Happened) -> None:
        self._pause, self._unreached_since = _FIRST_PAUSE, None
        self._workshop.spans.state(machine.state.value)
        if not self._is_only_recheck(machine):
            log.info(
                "handover",
                guest=machine.guest,
                handover=machine.handover,
                state=machine.state.value,
                after=happened.event.value,
                problem=happened.problem,
            )

    def _is_only_recheck(self, machine: Source) -> bool:
        """Whether what was prepared is looked at once more, or was and is as it had been."""
        if self._recheck is None or machine.state is SourceState.CONFIRMING:
            return self._recheck is not None
        before, mark = self._recheck
        self._recheck = None
        if machine == before:
            self._workshop.spans.forget_since(mark)
        return machine == before

    async def _carry_out(self, effects: tuple[Effect, ...], before: Source) -> None:
        workshop = self._workshop
        for effect in effects:
            match effect:
                case Write():
                    workshop.note(self.machine, self._settle_devices(before))
                case Open(gate):
                    await workshop.open(gate)
                case DoWork(work, again):
                    self._begin(self._work(work, again), again)
                case Tell(message, again):
                    await workshop.flush()
                    self._begin(self._tell(message, again), again)
                case _:
                    raise TypeError(f"{effect} is no effect of a source")

    def _settle_devices(self, before: Source) -> list[GuestDevice]:
        """The devices learn where the guest's reservations are now; those that it concerns."""
        machine = self.machine
        if machine.state is before.state:
            return []
        if machine.state in (SourceState.SETTLING, SourceState.CONCEDING):
            return self._workshop.forget(machine.luns)
        # while the guest ran here its devices knew best
        if machine.state is SourceState.STAYED and before.gate is not machine.gate:
            return self._workshop.adopt(machine.luns)
        return []

    # -- activities ---------------------------------------------------------------------------------

    def _begin(self, what: Coroutine[Any, Any, Happened], again: bool) -> None:
        self._pausing = again
        self._activity = asyncio.ensure_future(what)
        self._activity.add_done_callback(lambda _: self._wake.set())

    async def _before_trying_again(self, again: bool) -> None:
        if again:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self._pausing = False

    async def _work(self, work: Work, again: bool) -> Happened:
        await self._before_trying_again(again)
        happened = await self._workshop.work(work, self.machine.luns)
        if work is Work.DRAIN and happened.event is Event.DONE:
            self._news.extend(self._workshop.unsure(self.machine.luns))
        return happened

    async def _tell(self, message: Message, again: bool) -> Happened:
        await self._before_trying_again(again)
        with self._workshop.spans.span(f"message {message.kind.value}"):
            try:
                async with asyncio.timeout(self._limits.peer):
                    answer = await self._send(message)
            except (AgentError, TimeoutError) as error:
                why = str(error) or f"{self.machine.peer} has not answered within {self._limits.peer:g} s"
                return self._unreached(why)
            except Exception as error:
                log.error("the destination could not be told", handover=message.handover, exc_info=error)
                return self._unreached(f"{type(error).__name__}: {error}")
        self._unreached_since = None
        problem = answer.problem and f"{self.machine.peer}: {answer.problem}"
        return Happened(_ANSWERS[answer.kind], answer.luns, problem)

    def _unreached(self, why: str) -> Happened:
        now = asyncio.get_running_loop().time()
        if self._unreached_since is None:
            self._unreached_since = now
        given_up = now - self._unreached_since >= self._limits.give_up
        return Happened(Event.GIVEN_UP if given_up else Event.UNREACHED, problem=why)

    # -- those who wait -----------------------------------------------------------------------------

    def _answer_if_at_rest(self) -> None:
        """Tell those who wait how it stands, if it is at rest or does not get on."""
        if self._activity is None or (self.machine.problem and not self._still_tries()):
            self._answer_waiting()

    def _still_tries(self) -> bool:
        """Whether the destination has not been waited for long enough to say that it cannot be reached."""
        if self._unreached_since is None:
            return False
        waited = asyncio.get_running_loop().time() - self._unreached_since
        return waited < self._limits.give_up

    def _answer_waiting(self) -> None:
        for ask in self._asks:
            ask.refuse(self._no_meaning(ask))
        self._asks.clear()
        self._answer_all()

    def _answer_all(self) -> None:
        for ask in (*self._waiting, *self._asks):
            ask.answer(self.machine)
        self._waiting.clear()
        self._asks.clear()

    def _end(self, ask: _Ask) -> None:
        """The handover is over: what was asked too late is answered by what it came to."""
        if ask in self._waiting or ask.happened.event in SOURCE[self.machine.state]:
            ask.answer(self.machine)
        else:
            ask.refuse(self._no_meaning(ask))
