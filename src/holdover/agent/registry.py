"""The handovers that a host knows, and what all of them need: guests, peers, the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from weakref import WeakValueDictionary

from holdover.agent.answers import Handover, HandoverProblem, refusal
from holdover.agent.attach_guest import LeftToQemu
from holdover.agent.carrying_out import Workshop
from holdover.agent.client import AgentClient, AgentError
from holdover.agent.config import AgentConfig, ConfigError, parse_api
from holdover.agent.destination_handover import DestinationHandover
from holdover.agent.guest import HostedGuest
from holdover.agent.kill_hook import KillHook
from holdover.agent.neighbours import Standing, neighbour
from holdover.agent.peers import Peers, UnknownPeer
from holdover.agent.source_handover import SourceHandover
from holdover.agent.spans import Spans
from holdover.handover.protocol import Destination, Source
from holdover.journal.journal import JournalLike
from holdover.scsi.inquiry import Designator

__all__ = ["Registry"]

_REMEMBERED = 1000
"""How many handovers are known after the next one of their guest: as many as the journal keeps for long."""


class Registry:
    """The handovers of one host.

    Attributes:
        newest: By guest: the one under way, else the last. Only these touch gates and LUNs.
        closed: By identity: the ones before, whose late messages must be recognised.
    """

    def __init__(
        self, config: AgentConfig, guests: dict[str, HostedGuest], peers: Peers, journal: JournalLike
    ) -> None:
        """``guests`` is shared with the rest of the agent."""
        self.config = config
        self.guests = guests
        self.journal = journal
        self.newest: dict[str, Handover] = {}
        self.closed: dict[str, Source | Destination] = {}
        self._peers = peers
        self._clients: dict[str, AgentClient] = {}
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._kill = KillHook.from_environment()

    # -- handovers ----------------------------------------------------------------------------------

    def add(self, guest: str, handover: Handover) -> None:
        """A handover that begins, or goes on; the guest's last one is over."""
        before = self.newest.get(guest)
        if before is not None and before.machine is not None:
            self.remember(before.machine)
        self.newest[guest] = handover

    def remember(self, machine: Source | Destination) -> None:
        """One that is no guest's newest. No other side of that name hides one of which this host is the
        source: what became of it is asked here alone."""
        known = self.closed.pop(machine.handover, None)
        is_hidden = isinstance(known, Source) and not isinstance(machine, Source)
        self.closed[machine.handover] = known if known is not None and is_hidden else machine
        over = [name for name, each in self.closed.items() if not each.is_open]
        for name in over[:-_REMEMBERED]:
            del self.closed[name]

    def is_own(self, handover: str) -> bool:
        """Whether this host is, or was, the source of a handover."""
        return self.source(handover) is not None or isinstance(self.closed.get(handover), Source)

    def source(self, handover: str) -> SourceHandover | None:
        """The handover of that identity, if it is a guest's newest and this host is its source."""
        for each in self.newest.values():
            if isinstance(each, SourceHandover) and each.handover == handover:
                return each
        return None

    def destination(self, handover: str) -> DestinationHandover | None:
        """The handover of that identity, if it is a guest's newest and this host is its destination."""
        for each in self.newest.values():
            if isinstance(each, DestinationHandover) and each.handover == handover:
                return each
        return None

    def lock(self, guest: str) -> asyncio.Lock:
        """Held while it is decided whether a handover of a guest begins."""
        return self._locks.setdefault(("guest", guest), asyncio.Lock())

    def name_lock(self, handover: str) -> asyncio.Lock:
        """Held while it is decided what a handover's name means here; taken before `lock`."""
        return self._locks.setdefault(("handover", handover), asyncio.Lock())

    def is_moving(self, guest: str) -> bool:
        """Whether a handover of a guest is under way."""
        newest = self.newest.get(guest)
        if newest is None:
            return False
        # one without a machine has been let in, and is about to begin; one that is over is so on record
        written = newest.workshop.written
        return newest.machine is None or newest.machine.is_open or (written is not None and written.is_open)

    def workshop(self, guest: HostedGuest) -> Workshop:
        """For a new handover of a guest."""
        return Workshop(guest, self.journal, Spans(self.config.name), self._kill)

    # -- what refuses a handover --------------------------------------------------------------------

    def refusal(self, guest: str, problem: str, state: str = "") -> HandoverProblem:
        """What is raised where nothing was done at all."""
        return refusal(self.config.name, guest, problem, state)

    def require_free(self, guest: HostedGuest) -> None:
        """Raise `HandoverProblem` if a handover of this guest is under way, or none may be begun."""
        if isinstance(guest, LeftToQemu):
            raise self.refusal(guest.name, guest.refusal)
        if self.is_moving(guest.name):
            newest = self.newest[guest.name]
            state = "about to begin" if newest.machine is None else newest.machine.state.value
            raise self.refusal(
                guest.name,
                f"handover {newest.handover} of this guest is under way on {self.config.name} ({state}); "
                "wait for it, or end it with holdover handover rollback",
                state,
            )

    def require_no_neighbour(self, guest: HostedGuest, state: str = "") -> None:
        """Raise `HandoverProblem` if the handover, which is in ``state``, would change another guest's
        registration."""
        if all(device.sole_nexus for device in guest.devices):
            return  # nobody else can be registered as that nexus; looking at all guests would take long
        found = neighbour(guest.name, self._standings({device.designator for device in guest.devices}))
        if found is not None:
            raise self.refusal(
                guest.name,
                f"guest {found.guest} of {self.config.name} is registered on LUN {found.designator} as the "
                f"same I_T nexus as guest {guest.name}: a handover of one would change the other's "
                "registration; give one of them another path to the LUN, or shut it down",
                state,
            )

    def _standings(self, luns: Container[Designator | None]) -> list[Standing]:
        return [
            Standing(
                guest.name,
                str(device.designator),
                guest.name if device.sole_nexus else "",
                bool(device.tracked.key) or device.block.stale,
            )
            for guest in self.guests.values()
            for device in guest.devices
            if device.designator is not None and device.designator in luns
        ]

    # -- peers --------------------------------------------------------------------------------------

    @property
    def peer_names(self) -> frozenset[str]:
        """The names of the [[peer]]s."""
        return frozenset(each.name for each in self.config.peer)

    def may_hand_over(self, sender: str | None) -> bool:
        """Whether a guest may come from the host that a certificate names."""
        return self._peers.may_hand_over(sender)

    def peer_of(self, to: str) -> str:
        """The name or, on this machine, the address under which a destination is asked."""
        return next((each.name for each in self.config.peer if each.api == to), to)

    def client(self, peer: str) -> AgentClient:
        """The API of a peer, by its name or, on this machine, by its address.

        Raises:
            AgentError: It is no peer of this host.
        """
        try:
            if peer in self.peer_names:
                return self._peers.client(peer)
            if peer not in self._clients:
                address = parse_api(peer, "to")
                if self.config.peer or not address.local or address.tls:
                    self._peers.client(peer)
                self._clients[peer] = AgentClient(peer)
            return self._clients[peer]
        except (ConfigError, UnknownPeer) as error:
            raise AgentError(str(error)) from error

    async def close(self) -> None:
        """Stop all where they stand; the journal has all of it."""
        for handover in self.newest.values():
            await handover.close()
        for client in self._clients.values():
            await client.close()
