"""A handover on the host that the guest goes to: carries out what `holdover.handover.protocol` decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from holdover.agent.carrying_out import Workshop
from holdover.agent.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.handover.protocol import (
    Answer,
    Destination,
    DoWork,
    Effect,
    Happened,
    Message,
    Open,
    ProtocolError,
    Reply,
    Write,
    destination_hears,
    destination_step,
)
from holdover.handover.states import DESTINATION_DOES, DestinationState, Event
from holdover.handover.work import Work

__all__ = ["DestinationHandover"]

log = structlog.get_logger()

T = TypeVar("T")

_ARRIVED = frozenset(state for state, does in DESTINATION_DOES.items() if does.gate is Gate.RUNNING)
"""States in which the guest may run here: its devices know best, whichever of these comes after which."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class DestinationHandover:
    """Drives one `Destination`: one message, or event, after the other.

    Attributes:
        handover: Its identity.
        machine: As it stands; None until the first message is heard.
        heard_at: When the source was heard last, by the event loop's clock.
        doubt: Why the source cannot be asked whether it is over; empty: it can.
    """

    def __init__(
        self, handover: str, peer: str, workshop: Workshop, machine: Destination | None = None
    ) -> None:
        self.handover = handover
        self.machine = machine
        self.doubt = ""
        self.heard_at = asyncio.get_running_loop().time()
        self._workshop = workshop
        self._peer = peer
        self._one_by_one = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retry: asyncio.Task[None] | None = None
        self._pause = _FIRST_PAUSE

    @property
    def workshop(self) -> Workshop:
        """The devices, and what took how long."""
        return self._workshop

    async def hear(self, message: Message) -> Answer:
        """Do what the source's message says. It is done to its end even if nobody waits for the answer."""
        answer = await asyncio.shield(self._spawn(self._hear(message)))
        if answer is None:
            raise RuntimeError(f"{message.kind.value} was not answered")
        return answer

    async def happen(
        self,
        event: Event,
        problem: str = "",
        only: frozenset[DestinationState] = frozenset(DestinationState),
    ) -> None:
        """Do what follows from an event that is no message; returns when it is done, or is to be tried again.

        Raises:
            ProtocolError: It has no meaning in the state in which the handover is then, or is not one for
                any but ``only`` these states.
        """
        await asyncio.shield(self._spawn(self._happen(event, problem, only)))

    async def settled(self) -> None:
        """Wait until what is under way is done and on record."""
        async with self._one_by_one:
            return

    def restart(self) -> None:
        """Go on after the agent was started anew."""
        self._spawn(self._happen(Event.RESTARTED, "", frozenset(DestinationState)))

    def _spawn(self, what: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _hear(self, message: Message) -> Answer | None:
        async with self._one_by_one:
            self.doubt = ""
            self.heard_at = asyncio.get_running_loop().time()
            before = self.machine
            machine, effects = destination_hears(before, message, self._peer)
            return await self._go(before, machine, effects)

    async def _happen(self, event: Event, problem: str, only: frozenset[DestinationState]) -> None:
        async with self._one_by_one:
            if self.machine is not None and self.machine.state not in only:
                raise ProtocolError(f"the handover is {self.machine.state.value}")
            if self.machine is not None:
                await self._step(self.machine, Happened(event, problem=problem))

    async def _step(self, before: Destination, happened: Happened) -> Answer | None:
        machine, effects = destination_step(before, happened)
        return await self._go(before, machine, effects)

    async def _go(
        self, before: Destination | None, machine: Destination | None, effects: tuple[Effect, ...]
    ) -> Answer | None:
        """Carry out what follows, until there is an answer, or nothing more to do now."""
        if machine is not None:
            self._enter(before, machine)
        answer: Answer | None = None
        for effect in effects:
            match effect:
                case Write():
                    if machine is not None:
                        self._workshop.note(machine, self._settle_devices(before, machine))
                case Open(gate):
                    await self._workshop.open(gate)
                case DoWork(work, again):
                    if machine is None:
                        raise TypeError("work without a handover")
                    if again:
                        self._try_again_later(work)
                    else:
                        happened = await self._workshop.work(work, machine.luns)
                        return await self._step(machine, happened)
                case Reply(said):
                    answer = said
                case _:
                    raise TypeError(f"{effect} is no effect of a destination")
        await self._workshop.flush()
        return answer

    def _enter(self, before: Destination | None, machine: Destination) -> None:
        self.machine = machine
        if before is None or before.state is not machine.state:
            self._pause = _FIRST_PAUSE
            self._workshop.spans.state(machine.state.value)
            log.info(
                "handover",
                guest=machine.guest,
                handover=machine.handover,
                state=machine.state.value,
                problem=machine.problem,
            )

    def _settle_devices(self, before: Destination | None, machine: Destination) -> list[GuestDevice]:
        """The devices learn where the guest's reservations are now; those that it concerns."""
        if before is None or before.state is machine.state:
            return []
        if machine.state in _ARRIVED and before.state not in _ARRIVED:
            return self._workshop.adopt(machine.luns)
        if machine.state is DestinationState.RETURNED:
            return self._workshop.forget(machine.luns)
        return []

    def _try_again_later(self, work: Work) -> None:
        """After a pause, in which messages are heard."""
        if self._retry is None or self._retry.done() or self._retry is asyncio.current_task():
            self._retry = self._spawn(self._try_again(work))

    async def _try_again(self, work: Work) -> None:
        pause = self._pause
        self._pause = min(pause * 2, _LONGEST_PAUSE)
        await asyncio.sleep(pause)
        async with self._one_by_one:
            machine = self.machine
            if machine is not None and DESTINATION_DOES[machine.state].work is work:
                await self._step(machine, await self._workshop.work(work, machine.luns))

    async def close(self) -> None:
        """Stop where it stands; the journal has all of it."""
        for task in tuple(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
