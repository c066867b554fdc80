"""Handovers to this host: what the agents of their sources say, and what is asked when a source is dead."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeGuard

import structlog

from holdover.agent.answers import Handover, HandoverProblem, reached
from holdover.agent.api import HandoverState, PeerMessage
from holdover.agent.attach_expect import ExpectedDevice, ExpectError
from holdover.agent.carrying_out import record_of
from holdover.agent.client import AgentError
from holdover.agent.destination_handover import DestinationHandover
from holdover.agent.guest import HostedGuest
from holdover.agent.registry import Registry
from holdover.guest.gate import Gate
from holdover.handover.protocol import (
    Answer,
    Answered,
    Destination,
    DoWork,
    Message,
    ProtocolError,
    Reply,
    Source,
    destination_hears,
)
from holdover.handover.states import DESTINATION, DestinationState, Event, MessageKind, SourceState
from holdover.handover.steps import StepFailed
from holdover.journal.journal import JournalError
from holdover.paths.path import PathError

__all__ = ["Expect", "Incoming"]

Expect = Callable[[str, str, tuple[ExpectedDevice, ...]], Awaitable[HostedGuest]]
"""Makes, or finds, a guest that is to arrive: by its name, its machine type and its devices."""


log = structlog.get_logger()

_D = DestinationState
_MAY_WITHDRAW = frozenset({_D.PREPARED, _D.FAILED, _D.CLOSED, _D.WITHDRAWING})
"""States in which nothing of the guest's may run here, so that an operator may have it all withdrawn."""

_AFTER_COMMIT = (
    " on this host: its reservations are here and it may run here; if the source is dead, holdover handover "
    "take, and if it is not, ask the source"
)
_WHAT_NEXT = {
    _D.COMMITTED: _AFTER_COMMIT,
    _D.TAKEN: " on this host: its reservations are here and it may run here; holdover handover finish",
    _D.VERIFYING: "; wait",
    _D.HERE: "; the guest is here",
}


class _Refusal(Exception):
    """A message that is refused without a trace; says why."""


class Incoming:
    """The handovers of which this host is the destination."""

    def __init__(self, registry: Registry, expect: Expect) -> None:
        self._registry = registry
        self._config = registry.config
        self._expect = expect
        self._asking: asyncio.Task[None] | None = None

    # -- messages -----------------------------------------------------------------------------------

    async def hear(self, told: PeerMessage, sender: str | None) -> Answer:
        """Do what the source's agent says; ``sender`` is the name in its certificate."""
        message = told.message
        try:
            async with self._registry.name_lock(message.handover):
                destination = await self._find(told, sender)
                if destination is None:
                    return await self._hear_of_the_past(message, self._peer(told))
        except _Refusal as refused:
            return Answer(Answered.REFUSED, message.number, problem=str(refused))
        return await destination.hear(_with_nexuses(destination.workshop.guest, message))

    def _peer(self, told: PeerMessage) -> str:
        return told.host if told.host in self._registry.peer_names else told.api

    async def _find(self, told: PeerMessage, sender: str | None) -> DestinationHandover | None:
        """The handover that is meant, made now if it begins; None if it is over, or is not to begin.

        Raises:
            _Refusal: It may not come from there, or the guest cannot come here.
        """
        self._require_sender(told, sender)
        message, peer = told.message, self._peer(told)
        if self._registry.is_own(message.handover):
            raise _Refusal(f"{self._config.name} is the source of handover {message.handover}")
        async with self._registry.lock(message.guest):
            known = self._registry.destination(message.handover)
            past = self._registry.closed.get(message.handover)
            machine = past if known is None else known.machine
            if machine is not None and (machine.guest, machine.peer) != (message.guest, peer):
                raise _Refusal(
                    f"handover {message.handover} is one of guest {machine.guest} and another host"
                )
            if past is not None or (known is None and message.kind is not MessageKind.PREPARE):
                return None
            if known is None:
                known = await self._begin(message, peer)
            elif message.kind is MessageKind.PREPARE:
                self._require_same(known.workshop.guest, message)
            elif message.kind is MessageKind.COMMIT:
                self._require_no_neighbour(known)
            return known

    def _require_no_neighbour(self, destination: DestinationHandover) -> None:
        """Another guest may have registered since it was prepared; what is committed is so."""
        machine = destination.machine
        if machine is None or machine.state is not DestinationState.PREPARED:
            return
        try:
            self._registry.require_no_neighbour(destination.workshop.guest)
        except HandoverProblem as problem:
            raise _Refusal(str(problem)) from problem

    def _require_sender(self, told: PeerMessage, sender: str | None) -> None:
        if not self._registry.may_hand_over(sender):
            raise _Refusal(f"{sender} is no [[peer]] of {self._config.name}")
        if sender is not None and sender != told.host:
            raise _Refusal(f"the certificate names {sender}, and the message {told.host}")

    async def _begin(self, message: Message, peer: str) -> DestinationHandover:
        try:
            guest = await self._arriving(message)
            limit = guest.limits.step
            await asyncio.gather(*(device.learn_designator(limit) for device in guest.devices))
            self._registry.require_no_neighbour(guest)
        except (HandoverProblem, ExpectError, PathError, StepFailed) as error:
            raise _Refusal(str(error)) from error
        self._require_same(guest, message)
        destination = DestinationHandover(message.handover, peer, self._registry.workshop(guest))
        self._registry.add(guest.name, destination)
        self.watch_sources()
        return destination

    async def _arriving(self, message: Message) -> HostedGuest:
        guest = self._registry.guests.get(message.guest)
        if guest is not None:
            self._registry.require_free(guest)
        # an agent that made the guest itself looks whether its devices are still those that are wanted
        devices = tuple(ExpectedDevice(lun.designator, lun.migrate_pr) for lun in message.luns)
        guest = await self._expect(message.guest, message.machine, devices)
        self._registry.require_free(guest)
        for device in guest.devices:
            if device.block.gate not in (Gate.INCOMING, Gate.DEPARTED):
                raise self._registry.refusal(
                    guest.name,
                    f"is not expected on {self._config.name}: the gate of {device.name} is "
                    f"{device.block.gate.value}; give it --incoming there",
                )
        return guest

    def _require_same(self, guest: HostedGuest, message: Message) -> None:
        """Raise `_Refusal` if the guest's LUNs, or their settings, are not the same on both hosts."""
        mine = {str(device.designator): device.block.migrate_pr for device in guest.devices}
        theirs = {lun.designator: lun.migrate_pr for lun in message.luns}
        here = self._config.name
        if len(mine) != len(guest.devices):
            raise _Refusal(f"two devices of guest {guest.name} lead to one LUN on {here}")
        for designator in sorted(theirs.keys() ^ mine.keys()):
            on, off = ("the source", here) if designator in theirs else (here, "the source")
            raise _Refusal(f"guest {guest.name} has LUN {designator} on {on} and not on {off}")
        for designator, ours in mine.items():
            if ours != theirs[designator]:
                raise _Refusal(
                    f"{designator}: migrate-pr is {_on(theirs[designator])} on the source and {_on(ours)} on "
                    f"{here}; give the device the same setting on both"
                )

    async def _hear_of_the_past(self, message: Message, peer: str) -> Answer:
        """A message of a handover that is over here, or that never began: it touches no gate and no LUN."""
        closed = self._registry.closed.get(message.handover)
        if isinstance(closed, Source):
            raise _Refusal(f"{self._config.name} is the source of handover {message.handover}")
        machine, effects = destination_hears(closed, message, peer)
        if machine is not None and any(isinstance(effect, DoWork) for effect in effects):
            raise _Refusal(f"this handover is over on {self._config.name} ({_state(closed)})")
        # of a guest that is not here nothing is kept: whoever says so could say it without end, and what a
        # late PREPARE of it leaves is withdrawn when the source is asked whether it is over
        is_here = closed is not None or message.guest in self._registry.guests
        if machine is not None and machine != closed and is_here:
            try:
                await self._registry.journal.put(record_of(machine, time.time()))
            except JournalError as error:
                raise _Refusal(str(error)) from error
            self._registry.remember(machine)
        return next(effect.answer for effect in effects if isinstance(effect, Reply))

    # -- asked by operators -------------------------------------------------------------------------

    async def ask(self, name: str, handover: str, event: Event) -> HandoverState:
        """Finish what was taken; or withdraw what was prepared for a guest whose source is dead.

        Raises:
            HandoverProblem: That was not reached.
        """
        destination = self._known(name, handover)
        if event is Event.ASKED_ALONE:
            return await self.happen(name, handover, Event.OVER, DestinationState.RETURNED, _MAY_WITHDRAW)
        if event is not Event.ASKED_FINISH and destination.machine is not None:
            raise self._registry.refusal(
                name,
                f"{self._config.name} is the destination of handover {handover}; ask the source, "
                f"{destination.machine.peer}",
                destination.machine.state.value,
            )
        return await self.happen(name, handover, event, DestinationState.HERE)

    async def happen(
        self,
        name: str,
        handover: str,
        event: Event,
        state: DestinationState,
        only: frozenset[DestinationState] = frozenset(DestinationState),
    ) -> HandoverState:
        """Go on without the source until ``state``, from ``only`` these states.

        Raises:
            HandoverProblem: That was not reached.
        """
        destination = self._known(name, handover)
        machine = destination.machine
        if machine is not None and machine.state is state:
            await destination.settled()
        elif machine is not None:
            try:
                await destination.happen(event, only=only)
            except ProtocolError as error:
                now = destination.machine or machine
                problem = f"{error}{_WHAT_NEXT.get(now.state, '')}"
                raise self._registry.refusal(name, problem, now.state.value) from error
        return reached(self._config.name, destination, state)

    def _known(self, name: str, handover: str) -> DestinationHandover:
        destination = self._registry.destination(handover)
        if destination is None or destination.machine is None or destination.machine.guest != name:
            raise self._registry.refusal(
                name,
                f"handover {handover} is not under way on {self._config.name}, nor the newest; "
                f"GET /guests/{name}/handover says which is",
            )
        return destination

    # -- sources that say nothing -------------------------------------------------------------------

    def watch_sources(self) -> None:
        """Ask sources that say nothing whether their handovers are over: one that has rolled back alone could
        not say so."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._watch_sources())

    async def _watch_sources(self) -> None:
        recheck = self._config.limits.recheck
        while waiting := [each for each in self._registry.newest.values() if _may_be_over(each)]:
            now = asyncio.get_running_loop().time()
            await asyncio.gather(
                *(self._ask_source(each) for each in waiting if now - each.heard_at > recheck)
            )
            await asyncio.sleep(recheck)

    async def _ask_source(self, destination: DestinationHandover) -> None:
        machine = destination.machine
        if machine is None:
            return
        try:
            async with asyncio.timeout(self._config.limits.peer):
                said = await self._registry.client(machine.peer).peer_state(machine.handover)
        except (AgentError, TimeoutError) as error:
            destination.doubt = f"the source cannot be asked whether it is over: {error}"
            return
        except Exception as error:
            # the sources of other handovers are asked all the same
            log.error("a source could not be asked", handover=machine.handover, exc_info=error)
            destination.doubt = (
                f"the source cannot be asked whether it is over: {type(error).__name__}: {error}"
            )
            return
        destination.doubt = "" if said.known else f"{machine.peer} knows nothing of this handover any more"
        if said.state == SourceState.STAYED.value:
            try:
                with contextlib.suppress(ProtocolError):
                    await destination.happen(Event.OVER, "the source has rolled it back without this host")
            except Exception as error:
                log.error(
                    "what was prepared could not be withdrawn", handover=machine.handover, exc_info=error
                )
                destination.doubt = f"the source has rolled it back; {type(error).__name__}: {error}"

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])


def _may_be_over(handover: Handover) -> TypeGuard[DestinationHandover]:
    """Whether this host would have to know it if the source had rolled a handover back."""
    if not isinstance(handover, DestinationHandover):
        return False
    machine = handover.machine
    return machine is None or (machine.is_open and Event.OVER in DESTINATION[machine.state])


def _with_nexuses(guest: HostedGuest, message: Message) -> Message:
    if message.kind is not MessageKind.PREPARE:
        return message
    nexuses = {str(device.designator): device.nexuses for device in guest.devices}
    luns = tuple(replace(lun, destination_nexuses=nexuses.get(lun.designator, 1)) for lun in message.luns)
    return replace(message, luns=luns)


def _state(closed: Destination | None) -> str:
    return "never begun" if closed is None else closed.state.value


def _on(value: bool) -> str:
    return "on" if value else "off"
