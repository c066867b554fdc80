"""Requests that nobody should send, messages that come late, and people who only look.

Operators mistake a guest, a host or a handover. A host says that it is another one. The network delivers an
old message once more, minutes later. All of that must be refused, or change nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

import msgspec

from holdover.agent.guests.registrants import registrants_of
from holdover.agent.handover.handovers import HandoverProblem
from holdover.agent.host import Host
from holdover.api.client import AgentError, AgentRefused
from holdover.api.documents import PeerMessage
from holdover.handover.protocol import Answered
from holdover.handover.states import Event, MessageKind
from holdover.scsi.reservation.key import key_text
from tests.simulation.clockwork import Broken, Process
from tests.simulation.machines import Machine
from tests.simulation.network import Network, Told
from tests.simulation.operators import Operator
from tests.simulation.transcript import Transcript

EVERY = 1.0
"""How many of these there are each second."""

_TOO_OFTEN = 120
_STRANGE_IDS = ("", "x" * 129, "two\nlines")
_BEGINS_NOTHING = (MessageKind.COMMIT, MessageKind.RECALL, MessageKind.FINISH)


@dataclass(frozen=True, slots=True)
class Mistakes:
    """Whoever sends them."""

    world: Process
    random: Random
    network: Network
    machines: dict[str, Machine]
    operators: list[Operator]
    log: Transcript
    slips: bool = False
    """Whether somebody asks hundreds of times, and hosts speak of handovers that never were."""
    forgets: bool = False
    """Whether an agent may have forgotten that it was the source of a handover, and believe another one."""

    async def act(self) -> None:
        """Send one of them."""
        acts = [self._ask_in_vain, self._ask_in_vain, self._tell_in_vain, self._tell_again, self._look]
        if self.slips:
            acts += [self._ask_too_often, self._tell_of_nothing]
        try:
            await self.random.choice(acts)()
        except AgentError as error:
            self.log.line("somebody", f"is told: {error}")

    # -- operators ----------------------------------------------------------------------------------

    async def _ask_in_vain(self) -> None:
        """Ask for what cannot be done."""
        operator = self.random.choice(self.operators)
        name = operator.vm.name
        other = "db9" if name == "db1" else "db1"
        to = self.random.choice(sorted(self.machines))
        strange, known = self.random.choice(_STRANGE_IDS), f"{name}-{operator.begun}"
        event = self.random.choice((Event.ASKED_COMMIT, Event.ASKED_ROLL_BACK, Event.ASKED_FINISH))
        asked: tuple[Callable[[Host], Awaitable[object]], ...] = (
            lambda host: host.handovers.prepare("db9", "db9-1", to),
            lambda host: host.handovers.prepare(name, strange, to),
            lambda host: host.handovers.prepare(name, f"{name}-nowhere", "host-z"),
            lambda host: host.handovers.prepare(name, f"{name}-here", host.config.name),
            lambda host: host.handovers.ask(name, f"{name}-never", event),
            lambda host: host.handovers.take(name, f"{name}-never"),
        )
        if not operator.source:
            await self._refused(to, self.random.choice(asked))
            return
        wrong = next(each for each in self.machines if each not in (operator.source, operator.destination))
        of_source: tuple[Callable[[Host], Awaitable[object]], ...] = (
            lambda host: host.handovers.prepare(name, known, wrong),
            lambda host: host.handovers.prepare(other, known, operator.destination),
            lambda host: host.handovers.ask(other, known, event),
            lambda host: host.handovers.take(name, known),
        )
        of_destination = (
            lambda host: host.handovers.prepare(name, known, wrong),
            lambda host: host.handovers.ask(name, known, Event.ASKED_COMMIT),
            lambda host: host.handovers.ask(other, known, Event.ASKED_FINISH),
        )
        if self.random.random() < 0.3:
            await self._refused(to, self.random.choice(asked))
        elif self.random.random() < 0.5:
            await self._refused(operator.source, self.random.choice(of_source))
        else:
            await self._refused(operator.destination, self.random.choice(of_destination))

    async def _ask_too_often(self) -> None:
        """Begin handovers as fast as it goes, to a host that nobody knows."""
        if self.random.random() < 0.8:
            return
        name = self.random.choice(self.operators).vm.name
        to = self.random.choice(sorted(self.machines))

        async def ask(host: Host) -> None:
            for number in range(_TOO_OFTEN):
                with contextlib.suppress(HandoverProblem):
                    await host.handovers.prepare(name, f"{name}-nowhere-{number}", "host-z")

        await self.network.call(self.world, "operator", to, "far too many requests", ask)

    async def _refused(self, to: str, serve: Callable[[Host], Awaitable[object]]) -> None:
        self.log.line("somebody", f"asks {to} for what cannot be done")
        try:
            await self.network.call(self.world, "operator", to, "a wrong request", serve)
        except AgentRefused as refused:
            self.log.line("somebody", f"is refused: {refused}")
        else:
            raise Broken(f"{to} has done what it was asked by mistake")

    # -- messages of hosts ----------------------------------------------------------------------------

    async def _tell_in_vain(self) -> None:
        """Send a message that its host must not believe."""
        told, random = self._an_old_message(), self.random
        if told is None:
            return
        by, to, message = told.by, told.to, msgspec.json.decode(told.message, type=PeerMessage)
        third = next(each for each in self.machines if each not in (by, to))
        wrong = [
            ("host-z", to, message),
            (third, to, message),
            (by, to, msgspec.structs.replace(message, version="99.0")),
            (third, by, msgspec.structs.replace(message, host=third)),
        ]
        if message.message.kind in _BEGINS_NOTHING:
            wrong.append((third, to, msgspec.structs.replace(message, host=third)))
        by, to, message = random.choice(wrong)
        if self.forgets and message.message.kind is MessageKind.PREPARE and message.host == by != told.by:
            return
        self.log.line(by, f"tells {to} what it must not believe: {message.message.kind.name}")
        answer = await self.network.call(
            self.world, by, to, "a wrong message", lambda host: host.handovers.receive(message, by)
        )
        if answer.kind is not Answered.REFUSED:
            raise Broken(f"{to} believes {by}, which has nothing to say")

    async def _tell_of_nothing(self) -> None:
        """Speak of a handover that never was: a host refuses that, or there is nothing to do."""
        told = self._an_old_message()
        if told is None:
            return
        message = msgspec.json.decode(told.message, type=PeerMessage)
        never = msgspec.structs.replace(message.message, handover_id=f"{message.message.handover_id}-never")
        message = msgspec.structs.replace(message, message=never)
        if never.kind is MessageKind.PREPARE:
            return
        self.log.line(told.by, f"tells {told.to} of a handover that never was: {never.kind.name}")
        answer = await self.network.call(
            self.world, told.by, told.to, "nothing", lambda host: host.handovers.receive(message, told.by)
        )
        if never.kind in _BEGINS_NOTHING and answer.kind is not Answered.REFUSED:
            raise Broken(f"{told.to} believes that there was {never.handover_id}")

    async def _tell_again(self) -> None:
        """Deliver an old message once more."""
        told = self._an_old_message()
        if told is None:
            return
        message = msgspec.json.decode(told.message, type=PeerMessage)
        self.log.line(
            "network", f"delivers an old {message.message.kind.name} of {told.by} to {told.to} again"
        )
        await self.network.call(
            self.world,
            told.by,
            told.to,
            "an old message",
            lambda host: host.handovers.receive(message, told.by),
        )

    def _an_old_message(self) -> Told | None:
        told = self.network.told
        return self.random.choice(told) if told else None

    # -- those who look -------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Look at a host, and at who is registered at a guest's LUNs."""
        operator, to = self.random.choice(self.operators), self.random.choice(sorted(self.machines))
        name, placements = operator.vm.name, operator.vm.placements

        async def look(host: Host) -> None:
            host.state()
            host.handovers.under_way()
            await host.handovers.settled(name)
            guest = host.guests.get(name)
            if guest is None:
                return
            before = [each.lun.state for each in placements]
            found = await registrants_of(guest, to, 5)
            for placement, was, lun in zip(placements, before, found.luns, strict=False):
                state = placement.lun.state
                seen = sorted(each.key for each in lun.registrants)
                if (
                    not lun.problem
                    and was == state
                    and seen != sorted(key_text(each.key) for each in state.registrations)
                ):
                    raise Broken(f"{to} says that {seen} are registered on {placement.lun.name}")

        await self.network.call(self.world, "operator", to, "a look", look)
