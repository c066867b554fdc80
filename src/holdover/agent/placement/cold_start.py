"""Cold starts: the reservations follow a guest to the host on which it is started.

A cold start: a guest was shut down on one host, and an operator starts it on another. The first host's agent
has the guest's reservations. It makes sure that the guest does not run there, and hands it over: prepare,
commit and finish at once, since no guest stands still (`holdover.agent.placement.sending`). A guest that no
host has is claimed first.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.guests.records import device_record
from holdover.agent.handover.answers import HandoverProblem
from holdover.agent.handover.handovers import Handovers
from holdover.agent.handover.preflight import preflight_after_start
from holdover.agent.placement.claims import ClaimRefused, Claims, lost
from holdover.agent.placement.dead_hosts import DeadHosts
from holdover.agent.placement.refusal import ColdStartRefused
from holdover.agent.placement.taking import Taking
from holdover.api.client import AgentError
from holdover.api.migration_documents import GuestStarted, SendRequest
from holdover.api.peer_hosts import PeerClient
from holdover.config.agent_file import AgentConfig
from holdover.guest.gate import Gate
from holdover.handover.states import Event
from holdover.journal.journal import JournalError, JournalLike
from holdover.placement.claim import Word
from holdover.reservations.steps import StepFailed
from holdover.scsi.path import PathError

log = structlog.get_logger()


class ColdStarts:
    """Brings guests that run nowhere to this host."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        guests: dict[str, HostedGuest],
        handovers: Handovers,
        journal: JournalLike,
        attached: Callable[[str], Attached | None],
        claims: Claims,
        peer: Callable[[str], PeerClient],
        hosts: DeadHosts,
        taking: Taking,
    ) -> None:
        """``peer`` returns the client of a peer's agent."""
        self._hosts = hosts
        self._taking = taking
        self._config = config
        self._guests = guests
        self._handovers = handovers
        self._journal = journal
        self._attached = attached
        self._claims = claims
        self._peer = peer

    async def start(self, name: str, handover_id: str) -> GuestStarted:
        """Bring a guest's reservations to this host, before its QEMU is started here.

        ``handover`` is the id for the handover that this may need.

        Raises:
            ColdStartRefused: The guest may run elsewhere, or cannot come here.
        """
        here = self._config().name
        attached = self._known(name)
        await self._end_with_the_dead(name)
        self._require_no_handover(name)
        if attached.gate_now is Gate.RUNNING:
            return GuestStarted(
                guest=name, host=here, came_from="", text=f"guest {name} is on {here} already"
            )
        try:
            holder = await self._holder(name)
            if holder:
                return await self._fetch(name, handover_id, holder)
            text = await self.open_here(name, handover_id)
        except ClaimRefused as error:
            raise ColdStartRefused(str(error)) from error
        return GuestStarted(guest=name, host=here, came_from="", text=text)

    def _known(self, name: str) -> Attached:
        attached = self._attached(name)
        if name not in self._guests or attached is None:
            raise ColdStartRefused(f"{self._config().name} has no guest {name}; add it to the agent's file")
        return attached

    def _require_no_handover(self, name: str) -> None:
        state = self._handovers.summary(name)
        if state is not None and state.open:
            raise ColdStartRefused(
                f"handover {state.handover_id} of guest {name} is {state.state} on {self._config().name}; "
                f"holdover handover status {name} says what comes next"
            )

    async def _end_with_the_dead(self, name: str) -> None:
        """If the other host of the guest's handover is declared dead, end the handover without it."""
        state = self._handovers.summary(name)
        if state is None or not state.open or state.peer not in self._hosts.dead:
            return
        try:
            if state.role == "source":
                await self._handovers.ask(name, state.handover_id, Event.ASKED_ALONE)
            else:
                await self._handovers.take(name, state.handover_id)
                await self._handovers.ask(name, state.handover_id, Event.ASKED_FINISH)
        except HandoverProblem as error:
            raise ColdStartRefused(
                f"handover {state.handover_id} of guest {name} with {state.peer}, which is declared dead, "
                f"does not end: {error}; holdover handover status {name} says what comes next"
            ) from error

    async def _holder(self, name: str) -> str:
        """The peer that has the guest, by what the agents say; empty if none has it.

        Raises:
            ClaimRefused: A peer cannot be asked, or more than one has the guest, or it moves.
        """
        here = self._config().name
        said = await self._claims.ask(name)
        for host, each in said.items():
            if each.word is Word.MOVES:
                raise ClaimRefused(lost(name, here, host, each.word))
        holders = [host for host, each in said.items() if each.word is Word.HAS]
        if len(holders) > 1:
            raise ClaimRefused(
                f"{' and '.join(holders)} both say that guest {name} is there; nothing was changed. On the "
                f"one on which it does not belong: holdover guest release {name}"
            )
        return holders[0] if holders else ""

    async def _fetch(self, name: str, handover_id: str, holder: str) -> GuestStarted:
        here = self._config().name
        try:
            await self._peer(holder).send_guest(SendRequest(guest=name, handover_id=handover_id))
        except AgentError as error:
            raise ColdStartRefused(f"guest {name} does not come from {holder}: {error}") from error
        text = f"guest {name} was handed over from {holder}; its reservations are on {here}: start its QEMU"
        return GuestStarted(guest=name, host=here, came_from=holder, text=text)

    async def open_here(self, name: str, handover_id: str) -> str:
        """Let the commands of a guest that no host has pass here, and find out what it has on its LUNs.

        What it has by a host that is declared dead is taken, as handover ``handover``.

        Returns what is true now, for the operator.

        Raises:
            ClaimRefused: Another host has the guest, moves it or claims it, or cannot be asked.
            ColdStartRefused: A LUN cannot be asked, or the journal refuses; nothing was changed.
        """
        attached = self._known(name)
        here, dead = self._config().name, self._hosts.dead
        async with self._claims.claimed(name):
            source = (
                await self._taking.take(attached.guest, handover_id, dead, self._living()) if dead else ""
            )
            if source:
                return (
                    f"guest {name} was taken from {source}, which is declared dead; its reservations are on "
                    f"{here}: start its QEMU"
                )
            await self._record(attached)
            attached.run()
        log.info("A guest that was nowhere is started here.", guest=name, peer=", ".join(dead))
        text = f"no host has guest {name}; its commands pass on {here}: start its QEMU"
        return text + await self._read(attached.guest)

    def _living(self) -> set[str]:
        """The initiator names of this host and of all peers that are not declared dead."""
        config = self._config()
        peers = (peer.name for peer in config.peer if peer.name not in self._hosts.dead)
        return {config.initiator, *map(self._hosts.initiator, peers)}

    async def _record(self, attached: Attached) -> None:
        """Put on record that the guest is here. What is tracked is on record as stale: it is from before."""
        guest = attached.guest
        try:
            for device in guest.devices:
                await device.learn_designator(guest.limits.step)
                if device.block.migrate_pr:
                    device.block.mark_stale()
            for device in guest.devices:
                device.coming_gate = Gate.RUNNING
            await self._journal.put(*(device_record(guest.name, each) for each in guest.devices))
        except (PathError, StepFailed, JournalError) as error:
            for device in guest.devices:
                device.coming_gate = None
            raise ColdStartRefused(
                f"guest {guest.name} is not let run on {self._config().name}: {error}; its gate stays "
                f"{attached.gate_now.value}. When that is repaired: holdover guest start {guest.name}"
            ) from error

    async def _read(self, guest: HostedGuest) -> str:
        """Read what the guest has. Its gate is open, so a LUN that cannot be read now is read later."""
        for device in guest.devices:
            if not device.block.migrate_pr:
                continue
            try:
                await preflight_after_start(device, guest.limits.step, recorded=False)
            except (PathError, StepFailed) as error:
                log.warning(
                    "The agent could not read from the LUN what a guest holds.",
                    guest=device.guest,
                    lun=device.lun_name,
                    reason=str(error),
                )
                device.read_again()
                return (
                    f". What it has on {device.name} could not be read and counts as stale until it is: "
                    f"{error}"
                )
        return ""
