"""Handovers to this host: messages of the sources' agents, and operators' requests if a source is dead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeGuard

import structlog
from msgspec.structs import replace

from holdover.agent.attach.expected_guest import ExpectedDevice, ExpectError
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.answers import Handover, HandoverProblem, reached
from holdover.agent.handover.destination import DestinationHandover
from holdover.agent.handover.executor import record_of
from holdover.agent.handover.registry import Registry
from holdover.api.client import AgentError
from holdover.api.documents import HandoverState, PeerMessage
from holdover.api.version import API_VERSION, refusal_of_version
from holdover.config.agent_file import AgentConfig
from holdover.guest.gate import Gate
from holdover.handover.destination_rules import (
    is_over_at_the_source,
    may_hear_that_it_is_over,
    receive_after_return,
    receive_message,
)
from holdover.handover.effects import Effects
from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.common_nexus import require_new_spares, require_own_nexus
from holdover.handover.protocol import (
    Answer,
    Answered,
    Destination,
    EventNotAllowed,
    Message,
)
from holdover.handover.requests import WANTED_OF_DESTINATION, Request, steps_of_destination
from holdover.handover.state_table import what_instead
from holdover.handover.states import DestinationState, Event, MessageKind
from holdover.journal.journal import JournalError
from holdover.reservations.steps import StepFailed
from holdover.scsi.path import PathError

Expect = Callable[[str, str, tuple[ExpectedDevice, ...]], Awaitable[HostedGuest]]
"""Makes, or finds, a guest that is going to arrive; takes its name, its machine type and its devices."""


log = structlog.get_logger()

_ENDS = (MessageKind.CLOSE, MessageKind.RETURN)
"""What a source says to end a handover whose guest is not on the destination."""


class _Refusal(Exception):
    """A message is refused, and nothing is kept of it; the error says why."""


class Incoming:
    """The handovers of which this host is the destination."""

    def __init__(self, registry: Registry, expect: Expect, is_dead: Callable[[str], bool]) -> None:
        """``is_dead``: whether a host is declared dead here."""
        self._registry = registry
        self._is_dead = is_dead
        self._expect = expect
        self._asking: asyncio.Task[None] | None = None

    @property
    def _config(self) -> AgentConfig:
        return self._registry.config

    # -- messages -----------------------------------------------------------------------------------

    async def receive(self, peer_message: PeerMessage, sender: str) -> Answer:
        """Do what the source's agent says; ``sender`` is the name in its certificate."""
        message = peer_message.message
        try:
            async with self._registry.name_lock(message.handover_id):
                self._require_sender(peer_message, sender)
                if self._registry.is_own(message.handover_id):
                    return self._answer_of_another(message, sender)
                destination = await self._find(peer_message, sender)
                if destination is None:
                    return await self._hear_of_the_past(message, sender)
        except _Refusal as refused:
            return Answer(Answered.REFUSED, message.number, problem=str(refused))
        try:
            return await destination.receive(_with_own_nexuses(message, destination.executor.guest))
        finally:
            # A late message may have begun the end of a handover anew, after its source has gone on alone.
            self.watch_sources()

    async def _find(self, peer_message: PeerMessage, sender: str) -> DestinationHandover | None:
        """The handover that the message is about, made now if the message begins it; None if the handover is
        over, or must not begin.

        Raises:
            _Refusal: The handover may not come from ``sender``, or the guest cannot come here.
        """
        message, peer = peer_message.message, sender
        if message.kind is MessageKind.PREPARE and message.handover_id in self._registry.unreadable:
            raise _Refusal(
                f"handover {message.handover_id} is over on {self._config.name}, whose agent cannot read its "
                "record of it; a new handover needs another id"
            )
        async with self._registry.lock(message.guest):
            known = self._registry.destination(message.handover_id)
            past = self._registry.closed.get(message.handover_id)
            state_machine = past if known is None else known.state_machine
            if state_machine is not None and (state_machine.guest, state_machine.peer) != (
                message.guest,
                peer,
            ):
                raise _Refusal(
                    f"handover {message.handover_id} is one of guest {state_machine.guest} and another host"
                )
            if past is not None or (known is None and message.kind is not MessageKind.PREPARE):
                return None
            if known is None:
                known = await self._begin(message, peer)
            elif message.kind is MessageKind.PREPARE:
                self._require_same(known.executor.guest, message)
            elif message.kind is MessageKind.COMMIT:
                self._require_no_nexus_conflict(known)
            return known

    def _require_no_nexus_conflict(self, destination: DestinationHandover) -> None:
        """Raise `_Refusal` if another guest has registered since this handover was prepared.

        A handover that has committed already is not checked.
        """
        state_machine = destination.state_machine
        if state_machine is None or state_machine.state not in (
            DestinationState.PREPARED,
            DestinationState.UNSURE,
        ):
            return
        try:
            self._registry.require_no_nexus_conflict(destination.executor.guest)
        except HandoverProblem as problem:
            raise _Refusal(str(problem)) from problem

    def _require_sender(self, peer_message: PeerMessage, sender: str) -> None:
        if sender not in self._registry.peer_names:
            raise _Refusal(f"{sender} is no [[peer]] of {self._config.name}")
        if sender != peer_message.host:
            raise _Refusal(
                f"the sender's certificate has the name {sender}, but its message says {peer_message.host}"
            )
        refused = refusal_of_version(self._config.name, API_VERSION, sender, peer_message.version)
        if refused is not None:
            raise _Refusal(refused)

    def _answer_of_another(self, message: Message, peer: str) -> Answer:
        """The answer to a message of a handover that has the id of one of which this host is the source.

        Nothing was prepared here for the other one, so a source that wants to end it hears that it has ended.

        Raises:
            _Refusal: The source wants something else.
        """
        if message.kind not in (MessageKind.RETURN, MessageKind.CLOSE):
            raise _Refusal(
                f"{self._config.name} is the source of handover {message.handover_id}; choose another --id"
            )
        _, effects = receive_message(None, message, peer)
        if effects.answer is None:
            raise TypeError(f"{message.kind.value} was not answered")
        return effects.answer

    async def _begin(self, message: Message, peer: str) -> DestinationHandover:
        try:
            self._registry.require_allowance(message.guest, message.handover_id)
            guest = await self._arriving(message)
            limit = guest.limits.step
            await asyncio.gather(*(device.learn_designator(limit) for device in guest.devices))
            self._registry.require_no_nexus_conflict(guest)
        except (HandoverProblem, ExpectError, PathError, StepFailed) as error:
            raise _Refusal(str(error)) from error
        self._require_same(guest, message)
        await self._require_own_nexuses(guest, message, peer)
        destination = DestinationHandover(message.handover_id, peer, self._registry.executor(guest))
        self._registry.add(guest.name, destination)
        self.watch_sources()
        return destination

    async def _require_own_nexuses(self, guest: HostedGuest, message: Message, peer: str) -> None:
        """Raise `_Refusal` if source and destination are one nexus to a LUN; nothing is registered yet."""
        devices = {str(device.designator): device for device in guest.devices}

        async def look(lun: LunHandover) -> None:
            device = devices[lun.designator]
            try:
                steps = require_own_nexus(lun, device.port, peer, self._config.name)
                await device.run(steps, guest.limits.step)
                await device.run(require_new_spares(lun), guest.limits.step)
            except (PathError, StepFailed) as error:
                raise _Refusal(f"{lun.designator}: {error}") from error

        await asyncio.gather(*map(look, message.luns))

    async def _arriving(self, message: Message) -> HostedGuest:
        guest = self._registry.guests.get(message.guest)
        if guest is not None:
            self._registry.require_free(guest)
        # If no file gives the guest its devices, `_expect` gives it the devices of the message.
        devices = tuple(ExpectedDevice(lun.designator, lun.migrate_pr) for lun in message.luns)
        guest = await self._expect(message.guest, message.machine_type, devices)
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
        """Answer a message of a handover that is over here, or never began; touch no gate and no LUN."""
        past = self._registry.closed.get(message.handover_id)
        closed = past if isinstance(past, Destination) else None  # of a handover of its own `_find` refuses
        state_machine: Destination | None
        is_unread = (
            closed is not None and not closed.luns and message.handover_id in self._registry.unreadable
        )
        if closed is not None and is_unread:
            state_machine, effects = self._hear_unread(closed, message, peer)
        else:
            state_machine, effects = receive_message(closed, message, peer)
        if effects.begins:
            if closed is None or closed.state is not DestinationState.RETURNED:
                raise _Refusal(f"this handover is over on {self._config.name} ({_state(closed)})")
            state_machine, effects = receive_after_return(closed, message)
        # Keep nothing about a guest that is not here: a peer could name such guests without end. A late
        # PREPARE for such a guest may leave something here; this host withdraws that when it asks the source
        # whether the handover is over.
        is_here = closed is not None or message.guest in self._registry.guests
        # A record that cannot be read now may be read by a later start. Nothing may be written over it.
        is_here = is_here and not is_unread
        if state_machine is not None and state_machine != closed and is_here:
            try:
                await self._registry.journal.put(record_of(state_machine, self._registry.environment.clock()))
            except JournalError as error:
                raise _Refusal(str(error)) from error
            self._registry.remember(state_machine)
        if effects.answer is None:
            raise TypeError(f"{message.kind.value} was not answered")
        return effects.answer

    def _hear_unread(
        self, closed: Destination, message: Message, peer: str
    ) -> tuple[Destination | None, Effects]:
        """As `receive_message`, for a handover that is over and whose LUNs cannot be read."""
        if closed.state is DestinationState.HERE:
            if message.kind is not MessageKind.FINISH:
                return receive_message(closed, message, peer)  # the guest has come here
        elif not _ends_unread(closed, message):
            raise _Refusal(
                f"{self._config.name} cannot read its record of this handover, which says what is left "
                "to do; restore its journal, or ask the source for holdover handover rollback --alone"
            )
        return receive_after_return(closed, message)

    # -- asked by operators -------------------------------------------------------------------------

    async def ask(self, name: str, handover_id: str, event: Event) -> HandoverState:
        """Take everything from a dead source, finish what was taken, or withdraw what was prepared.

        Raises:
            HandoverProblem: The handover did not reach that state.
        """
        destination, state_machine = self._known(name, handover_id)
        if event not in WANTED_OF_DESTINATION:
            raise self._registry.refusal(
                name,
                f"{self._config.name} is the destination of handover {handover_id}; ask the source, "
                f"{state_machine.peer}",
                destination,
            )
        for step in steps_of_destination(state_machine, event):
            state = await self._take_step(name, destination, step)
        return state

    async def _take_step(self, name: str, destination: DestinationHandover, step: Request) -> HandoverState:
        _, state_machine = self._known(name, destination.handover_id)
        if state_machine.state is step.wanted:
            await destination.settled()
        else:
            try:
                await destination.happen(step.event)
            except EventNotAllowed as error:
                now = destination.state_machine or state_machine
                problem = f"{error}{what_instead(now.state)}"
                raise self._registry.refusal(name, problem, destination) from error
        return reached(self._config.name, destination, step.wanted)

    def _known(self, name: str, handover_id: str) -> tuple[DestinationHandover, Destination]:
        destination = self._registry.destination(handover_id)
        if (
            destination is None
            or destination.state_machine is None
            or destination.state_machine.guest != name
        ):
            raise self._registry.not_newest(name, handover_id)
        return destination, destination.state_machine

    # -- sources that say nothing -------------------------------------------------------------------

    def watch_sources(self) -> None:
        """Ask silent sources whether their handovers are over.

        A source that has rolled back without this host could not tell this host.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._watch_sources())

    async def _watch_sources(self) -> None:
        recheck = self._config.limits.recheck
        # A handover that cannot be over in its present state may be over in a later state, of which this task
        # is not told.
        while waiting := [each for each in self._registry.newest.values() if _is_open_here(each)]:
            now = asyncio.get_running_loop().time()
            silent = [each for each in waiting if now - each.heard_at > recheck]
            await asyncio.gather(*map(self._ask_source, silent))
            await asyncio.sleep(recheck)

    def _may_be_over(self, state_machine: Destination) -> bool:
        """Whether the source may have rolled this handover back without this host knowing it."""
        return may_hear_that_it_is_over(state_machine, source_is_dead=self._is_dead(state_machine.peer))

    async def _ask_source(self, destination: DestinationHandover) -> None:
        state_machine = destination.state_machine
        if state_machine is None or not self._may_be_over(state_machine):
            return
        try:
            async with asyncio.timeout(self._config.limits.peer):
                said = await self._registry.client(state_machine.peer).peer_state(state_machine.handover_id)
        except (AgentError, TimeoutError) as error:
            destination.doubt = f"the source cannot be asked whether it is over: {error}"
            return
        except Exception as error:
            # This error does not keep other handovers' sources from being asked.
            log.error(
                "The source of a handover could not be asked.",
                guest=state_machine.guest,
                handover_id=state_machine.handover_id,
                exc_info=error,
            )
            destination.doubt = (
                f"the source cannot be asked whether it is over: {type(error).__name__}: {error}"
            )
            return
        destination.doubt = (
            "" if said.known else f"{state_machine.peer} knows nothing of this handover any more"
        )
        now = destination.state_machine or state_machine
        if is_over_at_the_source(now, said.state) and self._may_be_over(now):
            try:
                with contextlib.suppress(EventNotAllowed):
                    await destination.happen(Event.OVER, f"it is over on the source ({said.state})")
            except Exception as error:
                log.error(
                    "What was prepared for a guest could not be withdrawn.",
                    guest=state_machine.guest,
                    handover_id=state_machine.handover_id,
                    exc_info=error,
                )
                destination.doubt = f"the source has rolled it back; {type(error).__name__}: {error}"

    async def close(self) -> None:
        """Ask no source any more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])


def _is_open_here(handover: Handover) -> TypeGuard[DestinationHandover]:
    """Whether this host is the destination of a handover that is not over on this host."""
    if not isinstance(handover, DestinationHandover):
        return False
    return handover.state_machine is None or handover.state_machine.is_open


def _with_own_nexuses(message: Message, guest: HostedGuest) -> Message:
    """A PREPARE with what only this host knows of its devices: how many nexuses they have, and the initiator
    port of a device with one nexus, where it is known.
    """
    if message.kind is not MessageKind.PREPARE:
        return message
    devices = {str(each.designator): each for each in guest.devices}
    luns = []
    for lun in message.luns:
        there, device = lun.destination, devices.get(lun.designator)
        if device is not None:
            is_one = device.nexuses == 1 and device.port
            ports = (device.port,) if is_one else there.ports
            there = replace(there, ports=ports, paths=device.nexuses)
        luns.append(replace(lun, destination=there))
    return replace(message, luns=tuple(luns))


def _ends_unread(closed: Destination, message: Message) -> bool:
    """Whether the source ends what has ended here, where the record does not tell of which LUNs.

    If a commit has moved a reservation, only the record has the key that the source must preempt.
    """
    is_moved = any(lun.lost for lun in message.luns)
    return closed.state is DestinationState.RETURNED and not is_moved and message.kind in _ENDS


def _state(closed: Destination | None) -> str:
    return "never begun" if closed is None else closed.state.value


def _on(value: bool) -> str:
    return "on" if value else "off"
