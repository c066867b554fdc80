"""All handovers of one host: who may begin one, which are under way, and how they go on after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import structlog

from holdover.agent.api import HandoverState, PeerMessage, PeerState, Problem, Stale
from holdover.agent.attach_expect import ExpectedDevice, ExpectError
from holdover.agent.attach_guest import LeftToQemu
from holdover.agent.carrying_out import Workshop
from holdover.agent.client import AgentClient, AgentError
from holdover.agent.config import AgentConfig, ConfigError, parse_api
from holdover.agent.destination_handover import DestinationHandover
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.looking import look_again
from holdover.agent.neighbours import Standing, neighbour
from holdover.agent.peers import Peers, UnknownPeer
from holdover.agent.source_handover import SourceHandover
from holdover.agent.spans import Spans
from holdover.guest.gate import Gate
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import (
    Answer,
    Answered,
    Destination,
    Effect,
    Message,
    ProtocolError,
    Source,
    begin,
)
from holdover.handover.states import DESTINATION, DestinationState, Event, MessageKind, SourceState
from holdover.handover.steps import StepFailed
from holdover.journal.journal import JournalLike
from holdover.journal.records import HandoverRecord
from holdover.paths.path import PathError

__all__ = ["Expect", "HandoverProblem", "Handovers"]

log = structlog.get_logger()

Expect = Callable[[str, str, tuple[ExpectedDevice, ...]], Awaitable[HostedGuest]]
Handover = SourceHandover | DestinationHandover

_RESTS = {
    Event.ASKED_COMMIT: SourceState.COMMITTED,
    Event.ASKED_ROLL_BACK: SourceState.STAYED,
    Event.ASKED_ALONE: SourceState.STAYED,
    Event.ASKED_FINISH: SourceState.GONE,
}


class HandoverProblem(Exception):
    """What was asked of a handover was not done; ``problem`` says why, and what is true."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.error)
        self.problem = problem


class Handovers:
    """The handovers of one host. ``guests`` is shared with the rest of the agent."""

    def __init__(
        self,
        config: AgentConfig,
        guests: dict[str, HostedGuest],
        peers: Peers,
        journal: JournalLike,
        expect: Expect,
    ) -> None:
        self._config = config
        self._guests = guests
        self._peers = peers
        self._journal = journal
        self._expect = expect
        self._newest: dict[str, Handover] = {}
        """By guest: the one under way, else the last."""
        self._destinations: dict[str, DestinationHandover] = {}
        self._sources: dict[str, SourceHandover] = {}
        self._closed: dict[str, Source | Destination] = {}
        """By identity: those of earlier times, whose late messages must be recognised."""
        self._clients: dict[str, AgentClient] = {}
        self._asking: asyncio.Task[None] | None = None
        self._preparing: set[str] = set()

    # -- asked by operators -------------------------------------------------------------------------

    async def prepare(self, name: str, handover: str, to: str, stale: Stale = Stale.REREAD) -> HandoverState:
        """Begin a handover of a guest to another host; returns when it is prepared.

        Raises:
            HandoverProblem: It is not; nothing is left changed, or what is says so.
        """
        known = self._sources.get(handover)
        if known is not None:
            if known.machine.is_open and known.machine.state is not SourceState.PREPARED:
                await known.settled()
            return self._reached(known, known.machine, SourceState.PREPARED)
        if name in self._preparing:
            raise self._refusal(name, "a handover of this guest is being prepared")
        self._preparing.add(name)
        try:
            source, effects = await self._begin(self._guest(name), handover, to, stale)
        finally:
            self._preparing.discard(name)
        machine = await source.start(effects)
        return self._reached(source, machine, SourceState.PREPARED)

    async def _begin(
        self, guest: HostedGuest, handover: str, to: str, stale: Stale
    ) -> tuple[SourceHandover, tuple[Effect, ...]]:
        self._require_free(guest)
        peer = self._peer_of(to)
        if not guest.devices:
            raise self._refusal(guest.name, "has no device yet")
        for device in guest.devices:
            if device.block.gate is not Gate.RUNNING:
                raise self._refusal(
                    guest.name,
                    f"the gate of {device.name} is {device.block.gate.value}; it can only leave from "
                    "where it runs",
                )
        try:
            await look_again(guest, stale)
        except (PathError, StepFailed) as error:
            raise self._refusal(guest.name, f"{error}; nothing was changed") from error
        self._require_no_neighbour(guest)
        luns = tuple(self._moving(device) for device in guest.devices)
        machine, effects = begin(handover, guest.name, peer, luns, guest.machine)
        source = self._source(machine, guest)
        return source, effects

    def _source(self, machine: Source, guest: HostedGuest) -> SourceHandover:
        workshop = Workshop(guest, self._journal, Spans(self._config.name))

        async def send(message: Message) -> Answer:
            own = str(self._config.api.addresses[0])
            return await self._client(machine.peer).tell(
                PeerMessage(host=self._config.name, api=own, message=message)
            )

        source = SourceHandover(machine, workshop, send)
        self._newest[guest.name] = self._sources[machine.handover] = source
        return source

    def _require_free(self, guest: HostedGuest) -> None:
        if isinstance(guest, LeftToQemu):
            raise self._refusal(guest.name, guest.refusal)
        newest = self._newest.get(guest.name)
        if newest is not None and newest.machine is not None and newest.machine.is_open:
            raise self._refusal(
                guest.name,
                f"handover {newest.machine.handover} of this guest is under way "
                f"({newest.machine.state.value}); wait for it, or end it with holdover handover rollback",
                newest.machine.state.value,
            )

    def _require_no_neighbour(self, guest: HostedGuest) -> None:
        found = neighbour(guest.name, self._standings())
        if found is not None:
            raise self._refusal(
                guest.name,
                f"guest {found.guest} of {self._config.name} is registered on LUN {found.designator} as the "
                f"same I_T nexus as guest {guest.name}: a handover of one would change the "
                "other's registration; nothing was changed",
            )

    def _standings(self) -> list[Standing]:
        return [
            Standing(
                guest.name,
                str(device.designator),
                guest.name if device.sole_nexus else "",
                bool(device.tracked.key) or device.block.stale,
            )
            for guest in self._guests.values()
            for device in guest.devices
            if device.designator is not None
        ]

    def _moving(self, device: GuestDevice) -> MovingLun:
        return MovingLun(
            str(device.designator),
            migrate_pr=device.block.migrate_pr,
            tracked=device.tracked,
            source_spare=secrets.randbits(63) + 1,
            destination_spare=secrets.randbits(63) + 1,
            fresh_spare=secrets.randbits(63) + 1,
            source_nexuses=device.nexuses,
        )

    async def ask(self, name: str, handover: str, event: Event) -> HandoverState:
        """Commit, roll back or finish.

        Raises:
            HandoverProblem: That was not reached.
        """
        source = self._sources.get(handover)
        if source is None:
            return await self._ask_destination(name, handover, event)
        reached = _RESTS[event]
        if source.machine.state is reached:
            return self._state(source)
        problem = "asked for" if event in (Event.ASKED_ROLL_BACK, Event.ASKED_ALONE) else ""
        try:
            machine = await source.ask(event, problem)
        except ProtocolError as error:
            raise self._refusal(
                name, f"{error}; {_then(source.machine.state)}", source.machine.state.value
            ) from error
        return self._reached(source, machine, reached)

    async def _ask_destination(self, name: str, handover: str, event: Event) -> HandoverState:
        destination = self._destinations.get(handover)
        if destination is None or destination.machine is None:
            raise self._refusal(name, f"handover {handover} is not known on {self._config.name}")
        if event is not Event.ASKED_FINISH:
            raise self._refusal(
                name,
                f"{self._config.name} is the destination of handover {handover}; ask the source, "
                f"{destination.machine.peer}",
                destination.machine.state.value,
            )
        return await self._happen(destination, event, DestinationState.HERE)

    async def take(self, name: str, handover: str) -> HandoverState:
        """The source is dead: move everything to this host without it.

        Raises:
            HandoverProblem: That was not reached.
        """
        destination = self._destinations.get(handover)
        if destination is None or destination.machine is None:
            raise self._refusal(name, f"handover {handover} was not prepared on {self._config.name}")
        return await self._happen(destination, Event.ASKED_TAKE, DestinationState.TAKEN)

    async def _happen(
        self, destination: DestinationHandover, event: Event, reached: DestinationState
    ) -> HandoverState:
        machine = destination.machine
        if machine is not None and machine.state is not reached:
            try:
                await destination.happen(event)
            except ProtocolError as error:
                raise self._refusal(machine.guest, str(error), machine.state.value) from error
        return self._reached(destination, destination.machine, reached)

    def state(self, name: str) -> HandoverState | None:
        """The newest handover of a guest; None if there was none."""
        newest = self._newest.get(name)
        return None if newest is None or newest.machine is None else self._state(newest)

    # -- asked by peers -----------------------------------------------------------------------------

    async def hear(self, told: PeerMessage, sender: str | None) -> Answer:
        """Do what another host's agent says of a handover to this host; ``sender`` is in its certificate."""
        message = told.message
        destination = self._destinations.get(message.handover)
        if destination is None:
            refusal = await self._admit(told, sender)
            if refusal is not None:
                return Answer(Answered.REFUSED, message.number, problem=refusal)
            destination = self._destinations[message.handover]
        elif message.kind is MessageKind.PREPARE:
            problem = self._difference(destination.workshop.guest, message)
            if problem:
                return Answer(Answered.REFUSED, message.number, problem=problem)
        with_nexuses = self._with_nexuses(destination.workshop.guest, message)
        return await destination.hear(with_nexuses)

    async def _admit(self, told: PeerMessage, sender: str | None) -> str | None:
        """Make a handover that is not known yet; why not, if it may not be."""
        message = told.message
        if not self._peers.may_hand_over(sender):
            return f"{sender} is no [[peer]] of {self._config.name}"
        if sender is not None and sender != told.host:
            return f"the certificate names {sender}, the message {told.host}"
        known = self._guests.get(message.guest)
        if message.kind is MessageKind.PREPARE:
            try:
                guest = await self._arriving(message)
                self._require_free(guest)
                await self._look_again_there(guest)
                self._require_no_neighbour(guest)
            except (HandoverProblem, ExpectError, PathError, StepFailed) as error:
                return str(error)
            problem = self._difference(guest, message)
            if problem:
                return problem
        elif known is None:
            return f"{self._config.name} knows nothing of this handover"
        else:
            guest = known
        peer = told.host if told.host in {each.name for each in self._config.peer} else told.api
        workshop = Workshop(guest, self._journal, Spans(self._config.name))
        destination = DestinationHandover(None, workshop, peer)
        self._destinations[message.handover] = destination
        if message.kind is MessageKind.PREPARE:
            self._newest[guest.name] = destination
        self._ask_sources()
        return None

    async def _arriving(self, message: Message) -> HostedGuest:
        devices = tuple(ExpectedDevice(lun.designator, lun.migrate_pr) for lun in message.luns)
        guest = await self._expect(message.guest, message.machine, devices)
        for device in guest.devices:
            if device.block.gate not in (Gate.INCOMING, Gate.DEPARTED):
                raise self._refusal(
                    guest.name,
                    f"is not expected on {self._config.name}: the gate of {device.name} is "
                    f"{device.block.gate.value}; give it --incoming there",
                )
        return guest

    async def _look_again_there(self, guest: HostedGuest) -> None:
        await asyncio.gather(*(device.learn_designator(guest.limits.step) for device in guest.devices))

    def _difference(self, guest: HostedGuest, message: Message) -> str:
        """How the guest's LUNs differ between both hosts; empty when they do not."""
        mine = {str(device.designator): device.block.migrate_pr for device in guest.devices}
        theirs = {lun.designator: lun.migrate_pr for lun in message.luns}
        here = self._config.name
        if len(mine) != len(guest.devices):
            return f"two devices of guest {guest.name} lead to one LUN on {here}"
        for designator in theirs.keys() - mine.keys():
            return f"guest {guest.name} has LUN {designator} on the source and not on {here}"
        for designator in mine.keys() - theirs.keys():
            return f"guest {guest.name} has LUN {designator} on {here} and not on the source"
        for designator, ours in mine.items():
            if ours != theirs[designator]:
                return (
                    f"{designator}: migrate-pr is {_on(theirs[designator])} on the source and {_on(ours)} on "
                    f"{here}; give the device the same setting on both"
                )
        return ""

    def _with_nexuses(self, guest: HostedGuest, message: Message) -> Message:
        if message.kind is not MessageKind.PREPARE:
            return message
        nexuses = {str(device.designator): device.nexuses for device in guest.devices}
        luns = tuple(replace(lun, destination_nexuses=nexuses.get(lun.designator, 1)) for lun in message.luns)
        return replace(message, luns=luns)

    def peer_state(self, handover: str) -> PeerState:
        """Where a handover stands of which this host is, or was, the source."""
        source = self._sources.get(handover)
        if source is not None:
            return PeerState(handover=handover, known=True, state=source.machine.state.value)
        closed = self._closed.get(handover)
        if isinstance(closed, Source):
            return PeerState(handover=handover, known=True, state=closed.state.value)
        return PeerState(handover=handover, known=False)

    # -- after a restart ----------------------------------------------------------------------------

    def restore(self, records: tuple[HandoverRecord, ...]) -> None:
        """Go on with the handovers that the journal has; to be called when the guests are there again."""
        for record in records:
            try:
                machine = self._decode(record)
            except (msgspec.DecodeError, ValueError) as error:
                log.error(
                    "a handover in the journal makes no sense", handover=record.handover, error=str(error)
                )
                continue
            guest = self._guests.get(record.guest)
            if guest is None:
                if machine.is_open:
                    log.error("the guest of an open handover is not there", guest=record.guest)
                self._closed[record.handover] = machine
            elif isinstance(machine, Source):
                self._restore_source(machine, guest)
            else:
                self._restore_destination(machine, guest)
        self._ask_sources()

    def _decode(self, record: HandoverRecord) -> Source | Destination:
        kind: type[Source | Destination] = Source if record.role == "source" else Destination
        return msgspec.json.decode(record.body, type=kind)

    def _restore_source(self, machine: Source, guest: HostedGuest) -> None:
        source = self._source(machine, guest)
        if not machine.is_open:
            return
        guest.move_gates(machine.gate)
        tracked = {str(device.designator): device.tracked for device in guest.devices}
        news = tuple(
            MovingLun(lun.designator, tracked=tracked[lun.designator])
            for lun in machine.luns
            if machine.state is SourceState.PREPARED
            and tracked.get(lun.designator, lun.tracked) != lun.tracked
        )
        source.restart(news)

    def _restore_destination(self, machine: Destination, guest: HostedGuest) -> None:
        workshop = Workshop(guest, self._journal, Spans(self._config.name))
        destination = DestinationHandover(machine, workshop, machine.peer)
        self._destinations[machine.handover] = self._newest[guest.name] = destination
        if machine.is_open:
            guest.move_gates(machine.gate)
            destination.restart()

    def _ask_sources(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask_sources_now_and_then())

    async def _ask_sources_now_and_then(self) -> None:
        """A source that has rolled back alone could not say so: ask it, where nothing was heard of it."""
        while True:
            await asyncio.sleep(self._config.limits.recheck)
            loop = asyncio.get_running_loop()
            waiting = [
                each
                for each in self._destinations.values()
                if each.machine is not None
                and each.machine.is_open
                and Event.OVER in DESTINATION[each.machine.state]
            ]
            if not waiting:
                return
            for destination in waiting:
                if loop.time() - destination.heard_at > self._config.limits.recheck:
                    await self._ask_source(destination)

    async def _ask_source(self, destination: DestinationHandover) -> None:
        machine = destination.machine
        if machine is None:
            return
        try:
            said = await self._client(machine.peer).peer_state(machine.handover)
        except (AgentError, HandoverProblem) as error:
            destination.doubt = f"the source cannot be asked: {error}"
            return
        destination.doubt = "" if said.known else f"{machine.peer} knows nothing of this handover any more"
        if said.state == SourceState.STAYED.value:
            with contextlib.suppress(ProtocolError):
                await destination.happen(Event.OVER, "the source has rolled it back without this host")

    # -- parts --------------------------------------------------------------------------------------

    def _guest(self, name: str) -> HostedGuest:
        guest = self._guests.get(name)
        if guest is None:
            raise self._refusal(name, f"{self._config.name} has no such guest")
        return guest

    def _peer_of(self, to: str) -> str:
        """The name or, on this machine, the address under which the destination is asked."""
        if to in {peer.name for peer in self._config.peer}:
            return to
        by_api = [peer.name for peer in self._config.peer if peer.api == to]
        if by_api:
            return by_api[0]
        try:
            self._client(to)
        except HandoverProblem:
            raise
        return to

    def _client(self, peer: str) -> AgentClient:
        if peer in {each.name for each in self._config.peer}:
            return self._peers.client(peer)
        if peer not in self._clients:
            try:
                address = parse_api(peer, "to")
                if self._config.peer or not address.local or address.tls:
                    self._peers.client(peer)
                self._clients[peer] = AgentClient(peer)
            except (ConfigError, UnknownPeer) as error:
                raise self._refusal("", str(error)) from error
        return self._clients[peer]

    def _refusal(self, guest: str, problem: str, state: str = "") -> HandoverProblem:
        text = f"guest {guest}: {problem}" if guest else problem
        return HandoverProblem(Problem(error=text, host=self._config.name, guest=guest, state=state))

    def _reached(
        self,
        handover: Handover,
        machine: Source | Destination | None,
        reached: SourceState | DestinationState,
    ) -> HandoverState:
        if machine is not None and machine.state is reached:
            return self._state(handover)
        if machine is None:
            raise self._refusal("", "nothing was begun")
        reason = machine.reason if isinstance(machine, Source) else ""
        problem = machine.problem or handover.workshop.problem
        parts = [part for part in (reason, problem) if part]
        in_doubt = machine.is_open and machine.state not in (SourceState.PREPARED, SourceState.COMMITTED)
        raise HandoverProblem(
            Problem(
                error="; then: ".join(parts) or f"the handover is {machine.state.value}",
                host=self._config.name,
                guest=machine.guest,
                state=machine.state.value,
                in_doubt=in_doubt,
            )
        )

    def _state(self, handover: Handover) -> HandoverState:
        machine = handover.machine
        if machine is None:
            raise self._refusal("", "nothing was begun")
        source = isinstance(machine, Source)
        problem = machine.problem or handover.workshop.problem
        if isinstance(handover, DestinationHandover):
            problem = problem or handover.doubt
        return HandoverState(
            handover=machine.handover,
            guest=machine.guest,
            host=self._config.name,
            role="source" if source else "destination",
            peer=machine.peer,
            state=machine.state.value,
            open=machine.is_open,
            luns=machine.luns,
            reason=machine.reason if isinstance(machine, Source) else "",
            problem=problem,
            spans=handover.workshop.spans.so_far(),
        )

    async def close(self) -> None:
        """Stop all where they stand."""
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking
        handovers: list[Handover] = [*self._sources.values(), *self._destinations.values()]
        for handover in handovers:
            await handover.close()
        for client in self._clients.values():
            await client.close()


def _then(state: SourceState) -> str:
    """What may be asked in a state."""
    return {
        SourceState.PREPARED: "commit or roll back",
        SourceState.COMMITTED: "finish or roll back",
        SourceState.STAYED: "the guest has stayed; prepare anew",
        SourceState.GONE: "the guest has gone",
    }.get(state, "roll back, or wait")


def _on(value: bool) -> str:
    return "on" if value else "off"
