"""All handovers of one host: the requests of operators, and the messages of other hosts' agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from holdover.agent.environment import Environment
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.answers import (
    HandoverProblem,
    HandoverSummary,
    open_summary_of,
    reached,
    state_of,
    summary_of,
)
from holdover.agent.handover.incoming import Expect, Incoming
from holdover.agent.handover.preflight import preflight
from holdover.agent.handover.recovery import Recovery
from holdover.agent.handover.registry import Registry
from holdover.agent.handover.source import SourceHandover
from holdover.api.client import AgentError
from holdover.api.documents import HandoverState, PeerMessage, PeerState, Stale
from holdover.api.peer_hosts import Peers
from holdover.api.version import API_VERSION, refusal_of_version
from holdover.config.agent_file import AgentConfig
from holdover.guest.gate import Gate
from holdover.handover.lun_handover import LunHandover, Registrations
from holdover.handover.protocol import Answer, EventNotAllowed, Message, Source
from holdover.handover.requests import WANTED_OF_SOURCE, next_of_source
from holdover.handover.source_rules import begin, state_for_destination
from holdover.handover.state_table import what_instead
from holdover.handover.states import Event, SourceState
from holdover.history.history import History
from holdover.journal.journal import JournalLike
from holdover.journal.records import HandoverRecord
from holdover.metrics.measurements import Measurements
from holdover.reservations.steps import StepFailed
from holdover.scsi.path import PathError

__all__ = ["HandoverProblem", "Handovers"]


class Handovers:
    """The handovers of one host; the rest of the agent shares the dictionary ``guests``."""

    def __init__(
        self,
        config: AgentConfig,
        guests: dict[str, HostedGuest],
        peers: Peers,
        journal: JournalLike,
        expect: Expect,
        environment: Environment,
        measurements: Measurements,
        history: History,
        refusal_of_host: Callable[[str], str] = lambda _: "",
    ) -> None:
        """``refusal_of_host``: why no guest may go to a host; empty if it may."""
        self.refusal_of_host = refusal_of_host
        self._host = config.name
        self._registry = Registry(config, guests, peers, journal, environment, measurements, history)
        self._incoming = Incoming(self._registry, expect, lambda host: bool(refusal_of_host(host)))
        self._recovery = Recovery(self._registry, self._incoming, self._source)
        self._beginning: dict[str, asyncio.Task[SourceHandover]] = {}

    def reconfigure(self, config: AgentConfig) -> None:
        """Use ``config`` from now on."""
        self._registry.reconfigure(config)

    # -- asked by operators -------------------------------------------------------------------------

    async def prepare(
        self, name: str, handover_id: str, to: str, stale: Stale = Stale.REREAD
    ) -> HandoverState:
        """Begin a handover of a guest to another host; return when it is prepared.

        Raises:
            HandoverProblem: It is not prepared. Either nothing stays changed, or the error says what does.
        """
        source = self._registry.source(handover_id)
        if source is None:
            task = self._beginning.get(handover_id)
            if task is None:
                task = asyncio.ensure_future(self._begin(name, handover_id, to, stale))
                self._beginning[handover_id] = task
                task.add_done_callback(lambda _: self._beginning.pop(handover_id, None))
            source = await asyncio.shield(task)
        self._require_guest(source, name)
        self._require_destination(source, to)
        await source.settled()
        return reached(self._host, source, SourceState.PREPARED)

    async def _begin(self, name: str, handover_id: str, to: str, stale: Stale) -> SourceHandover:
        registry = self._registry
        guest = registry.guests.get(name)
        if guest is None:
            raise registry.refusal(name, f"{self._host} has no such guest")
        async with registry.name_lock(handover_id), registry.lock(name):
            self._require_new(name, handover_id)
            registry.require_free(guest)
            registry.require_allowance(name, handover_id)
            self._require_running(guest)
            peer = registry.peer_of(to)
            if refused := self.refusal_of_host(peer):
                raise registry.refusal(name, f"{refused}; nothing was changed")
            try:
                about_peer = await registry.client(peer).peer_state(handover_id)
                self._require_version(peer, about_peer.version)
                await preflight(guest, stale)
            except (AgentError, PathError, StepFailed) as error:
                raise registry.refusal(name, f"{error}; nothing was changed") from error
            self._require_running(guest)
            registry.require_no_nexus_conflict(guest)
            luns = tuple(_lun_handover_of(device, registry.environment.spare_key) for device in guest.devices)
            arms = registry.config.early_commit
            state_machine, effects = begin(handover_id, name, peer, luns, guest.machine_type, arms=arms)
            source = self._source(state_machine, guest)
            source.start(effects)
            return source

    def _source(self, state_machine: Source, guest: HostedGuest) -> SourceHandover:
        async def send(message: Message) -> Answer:
            peer_message = PeerMessage(version=API_VERSION, host=self._host, message=message)
            return await self._registry.client(state_machine.peer).tell(peer_message)

        source = SourceHandover(state_machine, self._registry.executor(guest), send)
        self._registry.add(guest.name, source)
        return source

    def _require_version(self, peer: str, version: str) -> None:
        refused = refusal_of_version(self._host, API_VERSION, peer, version)
        if refused is not None:
            raise AgentError(refused)

    def _require_new(self, name: str, handover_id: str) -> None:
        registry = self._registry
        if registry.is_over(handover_id) or registry.destination(handover_id) is not None:
            raise registry.refusal(name, f"handover id {handover_id} was used already; choose another --id")

    def _require_running(self, guest: HostedGuest) -> None:
        for device in guest.devices:
            if device.block.gate is not Gate.RUNNING:
                raise self._registry.refusal(
                    guest.name,
                    f"the gate of {device.name} is {device.block.gate.value} on {self._host}; a guest leaves "
                    "from the host on which it runs",
                )

    async def ask(self, name: str, handover_id: str, event: Event) -> HandoverState:
        """Commit, roll back or finish a handover.

        Raises:
            HandoverProblem: The handover did not reach that state.
        """
        source = self._registry.source(handover_id)
        if source is None:
            return await self._incoming.ask(name, handover_id, event)
        self._require_guest(source, name)
        wanted = WANTED_OF_SOURCE[event]
        if source.state_machine.state is wanted:
            await source.settled()
            return reached(self._host, source, wanted)
        if event is Event.ASKED_COMMIT and source.state_machine.gate is Gate.RUNNING:
            # Another guest may have registered since this handover was prepared.
            self._registry.require_no_nexus_conflict(source.executor.guest, source)
        asked = "it was asked for" if event in (Event.ASKED_ROLL_BACK, Event.ASKED_ALONE) else ""
        try:
            step = next_of_source(source.state_machine, event)
            state_machine = await source.ask(step.event, asked)
            if step.event is not event and state_machine.state is not wanted:
                await source.ask(event, asked)
        except EventNotAllowed as error:
            state_machine = source.state_machine
            why = f" ({state_machine.reason})" if state_machine.reason else ""
            problem = f"{error}{why}{what_instead(state_machine.state)}"
            raise self._registry.refusal(name, problem, source) from error
        return reached(self._host, source, wanted)

    def _require_guest(self, source: SourceHandover, name: str) -> None:
        if source.state_machine.guest != name:
            raise self._registry.refusal(
                name,
                f"handover {source.state_machine.handover_id} is one of guest {source.state_machine.guest}",
            )

    def _require_destination(self, source: SourceHandover, to: str) -> None:
        state_machine = source.state_machine
        if state_machine.peer != self._registry.peer_of(to):
            raise self._registry.refusal(
                state_machine.guest,
                f"handover {state_machine.handover_id} goes to {state_machine.peer}, not to {to}; when it is "
                f"over, use another --id for {to}",
                source,
            )

    async def take(self, name: str, handover_id: str) -> HandoverState:
        """The source is dead: move everything to this host without the source.

        Raises:
            HandoverProblem: The handover did not reach that state.
        """
        return await self._incoming.ask(name, handover_id, Event.ASKED_TAKE)

    def state(self, name: str) -> HandoverState | None:
        """The newest handover of a guest; None if there was none."""
        newest = self._registry.newest.get(name)
        return None if newest is None or newest.state_machine is None else state_of(self._host, newest)

    def left_out(self, name: str) -> str:
        """Which open handover waits for a guest that the agent's file does not name any more; empty: none."""
        return self._registry.left_out(name)

    def summary(self, name: str) -> HandoverSummary | None:
        """The newest handover of a guest, without its LUNs; None if there was none.

        A guest may stand still for this. Its `state` takes milliseconds if it has many LUNs.
        """
        newest = self._registry.newest.get(name)
        return None if newest is None or newest.state_machine is None else summary_of(self._host, newest)

    async def settled(self, name: str) -> None:
        """Wait until what the newest handover of a guest does here is done and on record."""
        newest = self._registry.newest.get(name)
        if newest is not None:
            await newest.settled()

    async def commit_leaves(self, name: str) -> None:
        """Wait until the message to commit the newest handover of a guest is sent; for ever if it never is.
        Where this host is not the source, return at once."""
        newest = self._registry.newest.get(name)
        if isinstance(newest, SourceHandover):
            await newest.commit_sent.wait()

    def announce(self, name: str) -> None:
        """Tell a guest's devices which registrations its handover has made on the destination.

        The LUNs of the devices are known by now.
        """
        handover = self._registry.newest.get(name)
        if isinstance(handover, SourceHandover):
            handover.announce()

    def under_way(self) -> Sequence[HandoverSummary]:
        """The handovers of this host that are not over, as its records have them."""
        found = (open_summary_of(each) for each in tuple(self._registry.newest.values()))
        return [each for each in found if each is not None]

    def lock(self, name: str) -> asyncio.Lock:
        """The lock without which no handover of a guest begins."""
        return self._registry.lock(name)

    def is_in_handover(self, name: str) -> bool:
        """Whether a handover of a guest is under way."""
        return self._registry.is_in_handover(name)

    # -- asked by peers -----------------------------------------------------------------------------

    async def receive(self, peer_message: PeerMessage, sender: str) -> Answer:
        """Do what a source's agent says of a handover to here; ``sender`` is the name in its certificate."""
        return await self._incoming.receive(peer_message, sender)

    def peer_state(self, handover_id: str) -> PeerState:
        """The state on record of a handover of which this host is, or was, the source."""
        source = self._registry.source(handover_id)
        state_machine = self._registry.closed.get(handover_id) if source is None else source.executor.written
        now = self._registry.environment.clock()
        if isinstance(state_machine, Source):
            state = state_for_destination(
                state_machine, departed=self._is_departed(state_machine.guest, handover_id)
            )
            return PeerState(handover_id=handover_id, known=True, state=state, version=API_VERSION, clock=now)
        return PeerState(handover_id=handover_id, known=source is not None, version=API_VERSION, clock=now)

    def _is_departed(self, name: str, handover_id: str) -> bool:
        """Whether a guest is not here, although no later handover has moved it away."""
        guest, newest = self._registry.guests.get(name), self.summary(name)
        is_newest = newest is None or newest.handover_id == handover_id
        return is_newest and guest is not None and guest.has_departed

    # -- after a restart ----------------------------------------------------------------------------

    def restore(self, records: tuple[HandoverRecord, ...]) -> None:
        """Read the handovers from the journal, and shut the gates that were shut.

        Call this after the guests have been made and before any of their commands passes.
        """
        self._recovery.restore(records)

    def go_on(self, guest: str) -> None:
        """Continue a guest's handover, if one is open."""
        self._recovery.go_on(guest)

    async def close(self) -> None:
        """Stop all handovers in their present states; the journal has all of them."""
        for task in tuple(self._beginning.values()):
            task.cancel()
            await asyncio.wait([task])
        await self._incoming.close()
        await self._registry.close()


def _lun_handover_of(device: GuestDevice, spare_key: Callable[[], int]) -> LunHandover:
    return LunHandover(
        str(device.designator),
        migrate_pr=device.block.migrate_pr,
        tracked=device.tracked,
        source_spare=spare_key(),
        destination_spare=spare_key(),
        fresh_spare=spare_key(),
        port=device.port,
        source=Registrations(paths=device.nexuses),
    )
