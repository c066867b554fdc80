"""The operators of a simulation: each moves one guest from machine to machine, and never gives up for good.

An operator lets a guest run on the destination only when it was told that the handover is committed, and on
the source again only when it was told that the guest has stayed. It repeats what was not answered, asks twice
at once, comes back late, rolls back on a whim, and declares a machine without power dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from holdover.agent.host import Host
from holdover.api.client import AgentError, AgentRefused
from holdover.api.documents import HandoverState, Stale
from holdover.handover.states import Event
from tests.simulation.clockwork import Process, until
from tests.simulation.guests import Vm
from tests.simulation.machines import Machine
from tests.simulation.network import Network
from tests.simulation.transcript import Transcript

_STAYED, _MOVED = "stayed", "moved"
_NOTHING_BEGUN = frozenset({"", "stayed"})
_PATIENCE = 4
"""How many times a destination refuses to take before its operator waits for the source instead."""
_STOP_SECONDS = 60
"""How long an operator waits for a guest to stop, before the operator has the handover rolled back."""
_ENDED = frozenset({"gone", ""})
_NOTHING_THERE = frozenset({"", "returned"})
"""The states of a destination from which nothing can be taken."""
_THERE = frozenset({"gone", "settling", "telling", "conceding", "yielding"})
"""The states of a source whose guest is on the destination for good."""


class _Dead(Exception):
    """The source has lost its power."""


@dataclass(eq=False)
class Operator:
    """The operator of one guest.

    Attributes:
        begun: How many handovers were asked for, by all operators of the run.
        hasty: End what is under way, and begin nothing any more.
        source, destination: The machines of the handover under way; empty where there is none.
        waits: The source is dead, nothing can be taken from it, and it may come back.
        is_bold: Say that a dead source never comes back.
        lose: Have a machine lose its power right when it matters.
    """

    vm: Vm
    world: Process
    random: Random
    network: Network
    machines: dict[str, Machine]
    log: Transcript
    handovers: int
    begun: int = 0
    ended: int = 0
    hasty: bool = False
    source: str = ""
    destination: str = ""
    waits: bool = False
    is_bold: bool = False
    lose: Callable[[str], None] = lambda _: None

    async def work(self) -> None:
        """Move the guest again and again."""
        while self.begun < self.handovers and not self.hasty:
            await asyncio.sleep(self.random.random() * 3)
            vm = self.vm
            if vm.place is None and not self.machines[vm.belongs].dead:
                vm.start(vm.belongs, "its machine is back")
            if vm.place is None:
                continue
            self.begun += 1
            source = vm.place
            destination = self.random.choice([name for name in self.machines if self._may_go(source, name)])
            await self._move(source, destination, f"{vm.name}-{self.begun}")
            self.ended += 1

    def _may_go(self, source: str, destination: str) -> bool:
        """Whether it is worth a try: while a guest is not registered, no LUN shows that two hosts are one."""
        is_one = any(each.is_copied(source, destination) for each in self.vm.placements)
        return source != destination and not (is_one and self._is_bare())

    def _is_bare(self) -> bool:
        """Whether the guest is not registered on some LUN."""
        vm = self.vm
        keys = [vm.ledgers[each.lun.name].truth(vm.name).key for each in vm.placements if each.moved]
        return not all(keys)

    async def _move(self, source: str, destination: str, handover_id: str) -> None:
        self.source, self.destination = source, destination
        self.log.line("operator", f"{self.vm.name} is to go from {source} to {destination}: {handover_id}")
        self._asked_alone = False
        try:
            where = await self._migrate(handover_id)
        except _Dead:
            where = await self._take(handover_id)
        finally:
            self.source, self.destination, self.waits = "", "", False
        if self.vm.place is None:
            self.vm.start(destination if where == _MOVED else source, f"{handover_id} has ended")
        self.log.line("operator", f"{handover_id} has ended: the guest has {where}")

    async def _migrate(self, handover_id: str) -> str:
        random, name = self.random, self.vm.name
        stale = random.choice((Stale.REREAD, Stale.REREAD, Stale.REREAD, Stale.REFUSE, Stale.FORCE))
        try:
            await self._ask(
                "prepare", lambda host: host.handovers.prepare(name, handover_id, self.destination, stale)
            )
        except AgentRefused as refused:
            if refused.problem.state in _NOTHING_BEGUN:
                return _STAYED
            return await self._roll_back(handover_id)
        except AgentError:
            return await self._roll_back(handover_id)
        await asyncio.sleep(random.random() * (0.1 if self.hasty else random.choice(self._waits())))
        if random.random() < 0.1:
            return await self._roll_back(handover_id)
        if not await self._stop():
            return await self._roll_back(handover_id)
        self._perhaps_lose()
        try:
            await self._ask("commit", lambda host: host.handovers.ask(name, handover_id, Event.ASKED_COMMIT))
        except AgentError as error:
            # QEMU lets the guest go on by itself when a migration fails
            if random.random() < 0.3 and not self.machines[self.source].dead:
                self.vm.start(self.source, "QEMU lets it go on by itself")
            if isinstance(error, AgentRefused) and error.problem.state == "stayed":
                return _STAYED
            return await self._roll_back(handover_id)
        return await self._committed(handover_id)

    def _waits(self) -> tuple[float, ...]:
        """How many seconds a guest's memory may be copied."""
        return (0.5, 2, 20, 250) if self.is_bold else (0.5, 2, 20)

    def _perhaps_lose(self) -> None:
        """Perhaps one of the two machines loses its power in a moment, where operators are bold."""
        random = self.random
        if self.is_bold and random.random() < 0.5:
            seconds = random.choice((0.0, 0.01, 0.1)) * random.random()
            self.world.call_later(seconds, self.lose, random.choice((self.source, self.destination)))

    async def _stop(self) -> bool:
        """Stop the guest; whether it has stopped.

        It does not while its commands wait at the gate: an agent that was restarted may have found that the
        guest was fenced, and that the handover is as good as committed.
        """
        stop = asyncio.ensure_future(self.vm.stop())
        for _ in range(_STOP_SECONDS):
            await asyncio.wait([stop], timeout=1)
            self._require_source()
            if stop.done():
                return True
        return False

    async def _committed(self, handover_id: str) -> str:
        random, name = self.random, self.vm.name
        self._perhaps_lose()
        draw = random.random()
        if draw < 0.15:
            return await self._roll_back(handover_id)
        if not self.machines[self.destination].dead:
            self.vm.start(self.destination, f"{handover_id} is committed")
        if draw < 0.3:
            await asyncio.sleep(random.random() * 5)
            await self.vm.stop()
            return await self._roll_back(handover_id)
        if draw < 0.4:
            await asyncio.sleep(random.random() * 20)
        while True:
            try:
                await self._ask(
                    "finish", lambda host: host.handovers.ask(name, handover_id, Event.ASKED_FINISH)
                )
            except AgentRefused as refused:
                if refused.problem.state in _THERE:
                    return _MOVED
                await asyncio.sleep(1)
            except AgentError:
                await asyncio.sleep(1)
            else:
                return _MOVED

    async def _roll_back(self, handover_id: str) -> str:
        """Ask until the source says where the guest is; a destination without power is declared dead."""
        name = self.vm.name
        while True:
            is_likely = 0.9 if self.is_bold else 0.5
            is_dead = self.machines[self.destination].dead and self.random.random() < is_likely
            event = Event.ASKED_ALONE if is_dead else Event.ASKED_ROLL_BACK
            self._asked_alone |= is_dead
            ask = partial(_ask_handover, name, handover_id, event)
            try:
                await self._ask(event.value, ask)
            except AgentRefused as refused:
                state = refused.problem.state
                if state in _THERE:
                    return _MOVED
                if state in _NOTHING_BEGUN:
                    return _STAYED
                await asyncio.sleep(1 + self.random.random())
            except AgentError:
                await asyncio.sleep(1 + self.random.random())
            else:
                return _STAYED

    async def _take(self, handover_id: str) -> str:
        """The source is dead: have the destination take everything, if there is anything to take."""
        name = self.vm.name
        self.log.line(
            "operator", f"{self.source} is declared dead: {self.destination} is to take {handover_id}"
        )
        refusals = 0
        # An old message may say that the handover is over, and nothing on a LUN shows that it is not: this
        # operator has not told the destination that the source is dead (`holdover host declare-dead`).
        # The same if the source has been asked to go on alone, and its answer was lost.
        is_doubtful = (self.network.remembers or self._asked_alone) and self._is_bare()
        while True:
            if self.machines[self.destination].dead or is_doubtful:
                return await self._when_back(self._stop_and_roll_back, handover_id)
            try:
                if self.is_bold and self.random.random() < 0.3:
                    ask = partial(_ask_handover, name, handover_id, Event.ASKED_FINISH)
                    await self._answered(self.destination, "finish", ask)
                else:
                    await self._answered(
                        self.destination, "take", lambda host: host.handovers.take(name, handover_id)
                    )
            except AgentRefused as refused:
                if refused.problem.state == "here":
                    break
                refusals += 1
                if refused.problem.state in _NOTHING_THERE or refusals == _PATIENCE:
                    return await self._when_back(self._stop_and_roll_back, handover_id)
                await asyncio.sleep(1 + self.random.random())
            except AgentError:
                await asyncio.sleep(1 + self.random.random())
            else:
                break
        if self.vm.place is None and not self.machines[self.destination].dead:
            self.vm.start(self.destination, f"{handover_id} was taken")
        return await self._when_back(self._end_taken, handover_id)

    async def _stop_and_roll_back(self, handover_id: str) -> str:
        """Roll back; the guest may have run on the destination since it was committed."""
        await self.vm.stop()
        return await self._roll_back(handover_id)

    async def _when_back(self, what: Callable[[str], Awaitable[str]], handover_id: str) -> str:
        """Wait until the source has its power again, then do this."""
        while True:
            self.waits = True
            await until(lambda: not self.machines[self.source].dead)
            self.waits = False
            try:
                return await what(handover_id)
            except _Dead:
                continue

    async def _end_taken(self, handover_id: str) -> str:
        """The source is back, and the destination has taken everything: have the source hear of it."""
        name, event = self.vm.name, Event.ASKED_FINISH
        while True:
            try:
                await self._ask(event.value, partial(_ask_handover, name, handover_id, event))
            except AgentRefused as refused:
                if refused.problem.state in _ENDED:
                    return _MOVED
                is_finish = event is Event.ASKED_FINISH
                event = Event.ASKED_ROLL_BACK if is_finish else Event.ASKED_FINISH
                await asyncio.sleep(1 + self.random.random())
            except AgentError:
                await asyncio.sleep(1 + self.random.random())
            else:
                if event is Event.ASKED_FINISH:
                    return _MOVED
                # The source had gone on alone before that. What runs on the destination is ended.
                self.world.create_task(self.vm.stop())
                await asyncio.sleep(0)
                return _STAYED

    def _require_source(self) -> None:
        if self.machines[self.source].dead:
            raise _Dead

    async def _ask(self, what: str, serve: Callable[[Host], Awaitable[HandoverState]]) -> HandoverState:
        """Ask the source, a few times if there is no answer, and sometimes twice at once."""
        for attempt in range(4):
            self._require_source()
            try:
                if self.random.random() < 0.1:
                    both = (self._answered(self.source, what, serve) for _ in range(2))
                    first, second = await asyncio.gather(*both, return_exceptions=True)
                    for each in (first, second):
                        if not isinstance(each, BaseException):
                            return each
                    assert isinstance(first, BaseException)
                    raise first
                return await self._answered(self.source, what, serve)
            except AgentRefused:
                raise
            except AgentError:
                if attempt == 3:
                    raise
                await asyncio.sleep(1 + self.random.random() * 3)
        raise AssertionError

    async def _answered(
        self, to: str, what: str, serve: Callable[[Host], Awaitable[HandoverState]]
    ) -> HandoverState:
        call = self.network.call(self.world, "operator", to, f"{what} of {self.vm.name}", serve)
        try:
            state = await call
        except AgentError as error:
            state_now = f" ({error.problem.state})" if isinstance(error, AgentRefused) else ""
            self.log.line("operator", f"{to}: {what} of {self.vm.name}: {error}{state_now}")
            raise
        self.log.line("operator", f"{to}: {what} of {self.vm.name}: {state.state}")
        return state


def _ask_handover(guest: str, handover_id: str, event: Event, host: Host) -> Awaitable[HandoverState]:
    return host.handovers.ask(guest, handover_id, event)
