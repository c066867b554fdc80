"""A handover on the host that the guest goes to: carries out what `holdover.handover.protocol` decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

import structlog

from holdover.agent.carrying_out import Workshop
from holdover.agent.device import GuestDevice
from holdover.handover.protocol import (
    Answer,
    Destination,
    DoWork,
    Effect,
    Happened,
    Message,
    Open,
    Reply,
    Write,
    destination_hears,
    destination_step,
)
from holdover.handover.states import DestinationState, Event

__all__ = ["DestinationHandover"]

log = structlog.get_logger()

_ARRIVED = frozenset({DestinationState.COMMITTED, DestinationState.TAKEN})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class DestinationHandover:
    """Drives one `Destination`: one message, or event, after the other.

    Attributes:
        machine: As it stands, and as it is in the journal; None until the first message is accepted.
        heard_at: When the source was heard last, by the event loop's clock.
        doubt: Why the source cannot be asked whether it is over; empty: it can.
    """

    def __init__(self, machine: Destination | None, workshop: Workshop, peer: str) -> None:
        self.machine = machine
        self.doubt = ""
        self.heard_at = asyncio.get_running_loop().time()
        self._workshop = workshop
        self._peer = peer
        self._one_by_one = asyncio.Lock()
        self._tasks: set[asyncio.Task[Answer | None]] = set()
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

    async def happen(self, event: Event, problem: str = "") -> None:
        """Do what follows from an event that is no message.

        Raises:
            ProtocolError: It has no meaning in the state in which the handover is then.
        """
        await asyncio.shield(self._spawn(self._happen(event, problem)))

    def restart(self) -> None:
        """Go on after the agent was started anew."""
        self._spawn(self._happen(Event.RESTARTED, ""))

    def _spawn(self, what: Coroutine[object, object, Answer | None]) -> asyncio.Task[Answer | None]:
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

    async def _happen(self, event: Event, problem: str) -> None:
        async with self._one_by_one:
            before = self.machine
            if before is not None:
                machine, effects = destination_step(before, Happened(event, problem=problem))
                await self._go(before, machine, effects)

    async def _go(
        self, before: Destination | None, machine: Destination | None, effects: tuple[Effect, ...]
    ) -> Answer | None:
        while True:
            happened, answer = await self._carry_out(before, machine, effects)
            if machine is None or happened is None:
                return answer
            before = machine
            machine, effects = destination_step(machine, happened)

    async def _carry_out(
        self, before: Destination | None, machine: Destination | None, effects: tuple[Effect, ...]
    ) -> tuple[Happened | None, Answer | None]:
        happened: Happened | None = None
        answer: Answer | None = None
        workshop = self._workshop
        for effect in effects:
            match effect:
                case Write():
                    if machine is not None:
                        await workshop.write(machine, self._settle_devices(before, machine))
                        self.machine = machine
                        self._log(before, machine)
                case Open(gate):
                    workshop.open(gate)
                case DoWork(work, again):
                    if machine is None:
                        raise TypeError("work without a handover")
                    await self._before_trying_again(again)
                    with workshop.spans.span(f"state {machine.state.value}"):
                        happened = await workshop.work(work, machine.luns)
                case Reply(said):
                    answer = said
                case _:
                    raise TypeError(f"{effect} is no effect of a destination")
        return happened, answer

    def _settle_devices(self, before: Destination | None, machine: Destination) -> list[GuestDevice]:
        if before is not None and before.state is machine.state:
            return []
        if machine.state in _ARRIVED:
            self._workshop.adopt(machine.luns)
        elif machine.state is DestinationState.RETURNED and before is not None:
            self._workshop.forget(machine.luns)
        else:
            return []
        return list(self._workshop.guest.devices)

    async def _before_trying_again(self, again: bool) -> None:
        if again:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        else:
            self._pause = _FIRST_PAUSE

    def _log(self, before: Destination | None, machine: Destination) -> None:
        if before is None or before.state is not machine.state:
            log.info(
                "handover",
                guest=machine.guest,
                handover=machine.handover,
                state=machine.state.value,
                problem=machine.problem,
            )

    async def close(self) -> None:
        """Stop where it stands; the journal has all of it."""
        for task in tuple(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
