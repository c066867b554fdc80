"""A handover on the host that the guest leaves: carries out what `holdover.handover.protocol` decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

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
from holdover.handover.states import Event, SourceState
from holdover.handover.work import Work

__all__ = ["SourceHandover"]

log = structlog.get_logger()

Send = Callable[[Message], Awaitable[Answer]]

_ANSWERS = {Answered.DONE: Event.TOLD, Answered.REFUSED: Event.REFUSED, Answered.TAKEN: Event.TAKEN}
_BEFORE_COMMIT = frozenset(
    {SourceState.CHECKING, SourceState.PREPARING, SourceState.CONFIRMING, SourceState.PREPARED}
)
_CONFIRMS = frozenset({SourceState.CHECKING, SourceState.CONFIRMING, SourceState.RECHECKING})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class _Ask:
    """What an operator, or a clock of our own, has asked for, and waits for."""

    def __init__(self, happened: Happened) -> None:
        self.happened = happened
        self.delivered = False
        self.done: asyncio.Future[Source] = asyncio.get_running_loop().create_future()


class SourceHandover:
    """Drives one `Source`: one task, which ends when the handover does.

    Attributes:
        machine: As it stands, and as it is in the journal.
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
        self._task: asyncio.Task[None] | None = None
        self._began = asyncio.get_running_loop().time()

    @property
    def workshop(self) -> Workshop:
        """The devices, and what took how long."""
        return self._workshop

    # -- from outside -------------------------------------------------------------------------------

    async def start(self, effects: tuple[Effect, ...]) -> Source:
        """Begin, and wait until it is prepared, over or stuck."""
        self._go(effects)
        return await self.settled()

    async def settled(self) -> Source:
        """Wait until it is at rest, over or stuck."""
        ask = _Ask(Happened(Event.ASKED_CHECK))
        ask.delivered = True
        self._waiting.append(ask)
        self._wake.set()
        return await asyncio.shield(ask.done)

    def restart(self, news: tuple[MovingLun, ...]) -> None:
        """Go on after the agent was started anew; ``news``: LUNs of which the device knows something else."""
        self._go((), Happened(Event.RESTARTED, news))

    async def ask(self, event: Event, problem: str = "") -> Source:
        """Ask for something and wait until it is reached or the handover is stuck.

        Raises:
            ProtocolError: It has no meaning in the state in which the handover is then.
        """
        ask = _Ask(Happened(event, problem=problem))
        if self._task is None or self._task.done():
            self.machine, _ = source_step(self.machine, ask.happened)
            return self.machine
        self._asks.append(ask)
        self._wake.set()
        return await asyncio.shield(ask.done)

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
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for ask in (*self._waiting, *self._asks):
            ask.done.cancel()

    # -- the driver ---------------------------------------------------------------------------------

    def _go(self, effects: tuple[Effect, ...], first: Happened | None = None) -> None:
        for device in self._workshop.guest.devices:
            device.on_guest_change = self.guest_changed
        self._task = asyncio.ensure_future(self._drive(effects, first))

    async def _drive(self, effects: tuple[Effect, ...], first: Happened | None) -> None:
        try:
            if first is not None:
                await self._step(first)
            else:
                await self._carry_out(effects, self.machine)
            while self.machine.is_open or self._activity is not None:
                await self._step(await self._next())
                self._answer_asks()
            self._answer_asks()
            self._refuse_asks()
        except Exception as error:
            log.error("a handover stops", handover=self.machine.handover, exc_info=error)
            for ask in (*self._waiting, *self._asks):
                if not ask.done.done():
                    ask.done.set_exception(error)
            raise

    async def _next(self) -> Happened:
        """The next event: what the guest changed, what the activity came to, what was asked."""
        while True:
            self._wake.clear()
            if self._news:
                lun = self._news.popleft()
                return Happened(Event.CHANGED, (lun,))
            if self._activity is not None and self._activity.done():
                happened = self._activity.result()
                self._activity = None
                return happened
            if self._asks and (self._activity is None or self._pausing):
                await self._stop_pause()
                ask = self._asks.popleft()
                ask.delivered = True
                self._waiting.append(ask)
                return ask.happened
            await self._wait()

    async def _wait(self) -> None:
        limit = None
        if self.machine.state is SourceState.PREPARED and self._activity is None:
            limit = self._limits.recheck
        try:
            async with asyncio.timeout(limit):
                await self._wake.wait()
        except TimeoutError:
            event, problem = Event.ASKED_CHECK, ""
            if asyncio.get_running_loop().time() - self._began > self._limits.handover:
                event = Event.ASKED_ROLL_BACK
                problem = f"it was prepared for longer than {self._limits.handover:g} s (limits.handover)"
            self._asks.append(_Ask(Happened(event, problem=problem)))

    async def _stop_pause(self) -> None:
        if self._activity is not None:
            self._activity.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._activity
            self._activity = None

    async def _step(self, happened: Happened) -> None:
        before = self.machine
        try:
            machine, effects = source_step(before, happened)
        except ProtocolError as error:
            if happened.event is Event.CHANGED:
                log.error("the guest changed something while its commands were held", guest=before.guest)
                return
            self._reject(happened, error)
            return
        if machine.state is not before.state:
            self._pause, self._unreached_since = _FIRST_PAUSE, None
            log.info(
                "handover",
                guest=machine.guest,
                handover=machine.handover,
                state=machine.state.value,
                after=happened.event.value,
                problem=happened.problem,
            )
        self.machine = machine
        await self._carry_out(effects, before)

    async def _carry_out(self, effects: tuple[Effect, ...], before: Source) -> None:
        machine, workshop = self.machine, self._workshop
        for effect in effects:
            match effect:
                case Write():
                    await workshop.write(machine, self._settle_devices(before))
                case Open(gate):
                    workshop.open(gate)
                case DoWork(work, again):
                    self._begin(self._work(work, again), again)
                case Tell(message, again):
                    self._begin(self._tell(message, again), again)
                case _:
                    raise TypeError(f"{effect} is no effect of a source")

    def _settle_devices(self, before: Source) -> list[GuestDevice]:
        """What the devices know after this transition; those whose records go with it."""
        machine = self.machine
        if machine.state is before.state:
            return []
        if machine.state is SourceState.STAYED:
            self._workshop.adopt(machine.luns)
        elif machine.state is SourceState.SETTLING:
            self._workshop.forget(machine.luns)
        elif before.state in _CONFIRMS and not machine.changed:
            self._workshop.adopt(machine.luns)
        else:
            return []
        return list(self._workshop.guest.devices)

    def _begin(self, what: Awaitable[Happened], again: bool) -> None:
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
        with self._workshop.spans.span(f"state {self.machine.state.value}"):
            happened = await self._workshop.work(work, self.machine.luns)
        if work is Work.DRAIN and happened.event is Event.DONE:
            self._news.extend(self._unsure())
        return happened

    def _unsure(self) -> list[MovingLun]:
        """LUNs of which the devices know something else than was prepared, or nothing certain."""
        found = []
        for lun in self.machine.luns:
            device = self._workshop.device(lun.designator)
            if lun.migrate_pr and (device.block.stale or device.tracked != lun.tracked):
                found.append(MovingLun(lun.designator, tracked=device.tracked))
        return found

    async def _tell(self, message: Message, again: bool) -> Happened:
        await self._before_trying_again(again)
        loop = asyncio.get_running_loop()
        with self._workshop.spans.span(f"message {message.kind.value}"):
            try:
                async with asyncio.timeout(self._limits.peer):
                    answer = await self._send(message)
            except (AgentError, TimeoutError) as error:
                since = self._unreached_since = self._unreached_since or loop.time()
                given_up = loop.time() - since >= self._limits.give_up
                why = str(error) or f"{self.machine.peer} has not answered within {self._limits.peer:g} s"
                return Happened(Event.GIVEN_UP if given_up else Event.UNREACHED, problem=why)
        self._unreached_since = None
        problem = answer.problem and f"{self.machine.peer}: {answer.problem}"
        return Happened(_ANSWERS[answer.kind], answer.luns, problem)

    # -- those who wait -------------------------------------------------------------------------------

    def _answer_asks(self) -> None:
        """Tell those who wait, if the handover is at rest, or does not get on."""
        busy = self._activity is not None and not self._pausing
        stuck = self._pausing and bool(self.machine.problem) and not self._still_tries()
        if busy or self._news or (self._activity is not None and not stuck):
            return
        for ask in self._waiting:
            if not ask.done.done():
                ask.done.set_result(self.machine)
        self._waiting.clear()

    def _still_tries(self) -> bool:
        """Whether the destination has not been waited for long enough to say that it cannot be reached."""
        if self._unreached_since is None:
            return False
        waited = asyncio.get_running_loop().time() - self._unreached_since
        return waited < self._limits.give_up

    def _reject(self, happened: Happened, error: ProtocolError) -> None:
        for ask in [each for each in self._waiting if each.happened is happened]:
            self._waiting.remove(ask)
            if not ask.done.done():
                ask.done.set_exception(error)

    def _refuse_asks(self) -> None:
        """The handover is over: what was asked too late is answered by what it came to."""
        for ask in self._asks:
            try:
                source_step(self.machine, ask.happened)
            except ProtocolError as error:
                ask.done.set_exception(error)
            else:
                ask.done.set_result(self.machine)
        self._asks.clear()
