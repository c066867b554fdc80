"""All handovers of one host: what operators ask of them, and what other hosts' agents say."""

from __future__ import annotations

import asyncio
import secrets

from holdover.agent.answers import HandoverProblem, reached, state_of, what_next
from holdover.agent.api import HandoverState, PeerMessage, PeerState, Stale
from holdover.agent.client import AgentError
from holdover.agent.config import AgentConfig
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.incoming import Expect, Incoming
from holdover.agent.looking import look_again
from holdover.agent.peers import Peers
from holdover.agent.recovery import Recovery
from holdover.agent.registry import Registry
from holdover.agent.source_handover import SourceHandover
from holdover.guest.gate import Gate
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import Answer, Message, ProtocolError, Source, begin
from holdover.handover.states import DestinationState, Event, SourceState
from holdover.handover.steps import StepFailed
from holdover.journal.journal import JournalLike
from holdover.journal.records import HandoverRecord
from holdover.paths.path import PathError

__all__ = ["HandoverProblem", "Handovers"]

_ASKED_FOR = {
    Event.ASKED_COMMIT: SourceState.COMMITTED,
    Event.ASKED_ROLL_BACK: SourceState.STAYED,
    Event.ASKED_ALONE: SourceState.STAYED,
    Event.ASKED_FINISH: SourceState.GONE,
}


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
        self._host = config.name
        self._api = str(config.api.addresses[0])
        self._registry = Registry(config, guests, peers, journal)
        self._incoming = Incoming(self._registry, expect)
        self._recovery = Recovery(self._registry, self._incoming, self._source)
        self._beginning: dict[str, asyncio.Task[SourceHandover]] = {}

    # -- asked by operators -------------------------------------------------------------------------

    async def prepare(self, name: str, handover: str, to: str, stale: Stale = Stale.REREAD) -> HandoverState:
        """Begin a handover of a guest to another host; returns when it is prepared.

        Raises:
            HandoverProblem: It is not; nothing is left changed, or what is says so.
        """
        source = self._registry.source(handover)
        if source is None:
            task = self._beginning.get(handover)
            if task is None:
                task = asyncio.ensure_future(self._begin(name, handover, to, stale))
                self._beginning[handover] = task
                task.add_done_callback(lambda _: self._beginning.pop(handover, None))
            source = await asyncio.shield(task)
        self._require_guest(source, name)
        await source.settled()
        return reached(self._host, source, SourceState.PREPARED)

    async def _begin(self, name: str, handover: str, to: str, stale: Stale) -> SourceHandover:
        registry = self._registry
        guest = registry.guests.get(name)
        if guest is None:
            raise registry.refusal(name, f"{self._host} has no such guest")
        async with registry.name_lock(handover), registry.lock(name):
            self._require_new(name, handover)
            registry.require_free(guest)
            self._require_running(guest)
            peer = registry.peer_of(to)
            try:
                await registry.client(peer).peer_state(handover)
                await look_again(guest, stale)
            except (AgentError, PathError, StepFailed) as error:
                raise registry.refusal(name, f"{error}; nothing was changed") from error
            self._require_running(guest)
            registry.require_no_neighbour(guest)
            luns = tuple(_moving(device) for device in guest.devices)
            machine, effects = begin(handover, name, peer, luns, guest.machine)
            source = self._source(machine, guest)
            source.start(effects)
            return source

    def _source(self, machine: Source, guest: HostedGuest) -> SourceHandover:
        async def send(message: Message) -> Answer:
            told = PeerMessage(host=self._host, api=self._api, message=message)
            return await self._registry.client(machine.peer).tell(told)

        source = SourceHandover(machine, self._registry.workshop(guest), send)
        self._registry.add(guest.name, source)
        return source

    def _require_new(self, name: str, handover: str) -> None:
        registry = self._registry
        if handover in registry.closed or registry.destination(handover) is not None:
            raise registry.refusal(name, f"handover {handover} has been before; give the new one a new name")

    def _require_running(self, guest: HostedGuest) -> None:
        for device in guest.devices:
            if device.block.gate is not Gate.RUNNING:
                raise self._registry.refusal(
                    guest.name,
                    f"the gate of {device.name} is {device.block.gate.value} on {self._host}; a guest leaves "
                    "from the host on which it runs",
                )

    async def ask(self, name: str, handover: str, event: Event) -> HandoverState:
        """Commit, roll back or finish.

        Raises:
            HandoverProblem: That was not reached.
        """
        source = self._registry.source(handover)
        if source is None:
            return await self._incoming.ask(name, handover, event)
        self._require_guest(source, name)
        state = _ASKED_FOR[event]
        if source.machine.state is state:
            await source.settled()
            return reached(self._host, source, state)
        if event is Event.ASKED_COMMIT and source.machine.state is SourceState.PREPARED:
            # another guest may have registered since it was prepared
            self._registry.require_no_neighbour(source.workshop.guest, source.machine.state.value)
        asked = "it was asked for" if event in (Event.ASKED_ROLL_BACK, Event.ASKED_ALONE) else ""
        try:
            await source.ask(event, asked)
        except ProtocolError as error:
            now = source.machine.state
            raise self._registry.refusal(name, f"{error}; {what_next(now)}", now.value) from error
        return reached(self._host, source, state)

    def _require_guest(self, source: SourceHandover, name: str) -> None:
        if source.machine.guest != name:
            raise self._registry.refusal(
                name, f"handover {source.machine.handover} is one of guest {source.machine.guest}"
            )

    async def take(self, name: str, handover: str) -> HandoverState:
        """The source is dead: move everything to this host without it.

        Raises:
            HandoverProblem: That was not reached.
        """
        return await self._incoming.happen(name, handover, Event.ASKED_TAKE, DestinationState.TAKEN)

    def state(self, name: str) -> HandoverState | None:
        """The newest handover of a guest; None if there was none."""
        newest = self._registry.newest.get(name)
        return None if newest is None or newest.machine is None else state_of(self._host, newest)

    def is_moving(self, name: str) -> bool:
        """Whether a handover of a guest is under way."""
        return self._registry.is_moving(name)

    # -- asked by peers -----------------------------------------------------------------------------

    async def hear(self, told: PeerMessage, sender: str | None) -> Answer:
        """Do what another host's agent says of a handover to this host; ``sender`` is in its certificate."""
        return await self._incoming.hear(told, sender)

    def peer_state(self, handover: str) -> PeerState:
        """Where a handover stands, by what is on record, of which this host is or was the source."""
        source = self._registry.source(handover)
        machine = self._registry.closed.get(handover) if source is None else source.workshop.written
        if isinstance(machine, Source):
            return PeerState(handover=handover, known=True, state=machine.state.value)
        return PeerState(handover=handover, known=source is not None)

    # -- after a restart ----------------------------------------------------------------------------

    def restore(self, records: tuple[HandoverRecord, ...]) -> None:
        """Take up what the journal has, and shut the gates that were shut. The guests are there again, and
        none of their commands has passed yet."""
        self._recovery.restore(records)

    def go_on(self, guest: str) -> None:
        """Go on with a guest's handover, if one is open."""
        self._recovery.go_on(guest)

    async def close(self) -> None:
        """Stop all where they stand."""
        for task in tuple(self._beginning.values()):
            task.cancel()
            await asyncio.wait([task])
        await self._incoming.close()
        await self._registry.close()


def _moving(device: GuestDevice) -> MovingLun:
    return MovingLun(
        str(device.designator),
        migrate_pr=device.block.migrate_pr,
        tracked=device.tracked,
        source_spare=secrets.randbits(63) + 1,
        destination_spare=secrets.randbits(63) + 1,
        fresh_spare=secrets.randbits(63) + 1,
        source_nexuses=device.nexuses,
    )
