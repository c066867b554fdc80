"""The handovers that a host knows, and what all of them need: guests, peers, the journal."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Container
from weakref import WeakValueDictionary

from holdover.admission.token_buckets import TokenBuckets
from holdover.agent.attach.hosted_guest import LeftToQemu
from holdover.agent.environment import Environment
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.answers import Handover, HandoverProblem, is_in_doubt, refusal
from holdover.agent.handover.destination import DestinationHandover
from holdover.agent.handover.executor import HandoverExecutor
from holdover.agent.handover.kill_hook import KillHook
from holdover.agent.handover.nexus_conflict import NexusRegistration, nexus_conflict
from holdover.agent.handover.phases import Phases
from holdover.agent.handover.source import SourceHandover
from holdover.agent.handover.spans import Spans
from holdover.api.client import AgentError
from holdover.api.documents import Problem
from holdover.api.peer_hosts import PeerClient, Peers, UnknownPeer
from holdover.config.agent_file import AgentConfig, ConfigError
from holdover.handover.protocol import Destination, Source
from holdover.history.history import History
from holdover.journal.journal import JournalLike
from holdover.metrics.measurements import Measurements
from holdover.scsi.inquiry import Designator

_REMEMBERED = 1000
"""How many superseded handovers a host remembers; the journal keeps as many for long."""

_AT_ONCE, _EVERY_SECONDS = 100, 1.0
"""How many handovers of one guest may begin at once, and the seconds between later ones; each is recorded."""

_NAME_LENGTH = 128
"""The longest name of a handover, in characters; each of its records has the name."""


class Registry:
    """The handovers of one host.

    Attributes:
        newest: By guest: the handover under way, else the last one. Only these touch gates and LUNs.
        closed: By id: the earlier handovers, whose late messages the host must recognise.
        unreadable: The ids of handovers that are over, and whose records this agent cannot read.
    """

    def __init__(
        self,
        config: AgentConfig,
        guests: dict[str, HostedGuest],
        peers: Peers,
        journal: JournalLike,
        environment: Environment,
        measurements: Measurements,
        history: History,
    ) -> None:
        """The rest of the agent shares ``guests``."""
        self.config = config
        self.guests = guests
        self.journal = journal
        self.environment = environment
        self.newest: dict[str, Handover] = {}
        self.closed: dict[str, Source | Destination] = {}
        self.unreadable: set[str] = set()
        self._peers = peers
        self._measurements = measurements
        self._history = history
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._kill = KillHook.from_environment()
        self._allowance = TokenBuckets(_AT_ONCE, _EVERY_SECONDS)

    def reconfigure(self, config: AgentConfig) -> None:
        """Use ``config`` from now on."""
        self.config = config

    # -- handovers ----------------------------------------------------------------------------------

    def add(self, guest: str, handover: Handover) -> None:
        """Add a handover that begins or continues; the guest's previous handover is over."""
        before = self.newest.get(guest)
        if before is not None and before.state_machine is not None:
            self.remember(before.state_machine)
        self.newest[guest] = handover

    def remember(self, state_machine: Source | Destination) -> None:
        """Remember a handover that is not the newest of its guest.

        If this host is the source of a handover, only its own record of that handover counts: other hosts ask
        this host alone what became of it. A record of this host as the destination under the same id never
        replaces it.
        """
        known = self.closed.pop(state_machine.handover_id, None)
        is_hidden = isinstance(known, Source) and not isinstance(state_machine, Source)
        self.closed[state_machine.handover_id] = known if known is not None and is_hidden else state_machine
        over = [name for name, each in self.closed.items() if not each.is_open]
        for name in over[:-_REMEMBERED]:
            del self.closed[name]

    def is_over(self, handover_id: str) -> bool:
        """Whether that id may begin nothing here: it is that of an earlier handover."""
        return handover_id in self.closed or handover_id in self.unreadable

    def is_own(self, handover_id: str) -> bool:
        """Whether this host is, or was, the source of a handover."""
        return self.source(handover_id) is not None or isinstance(self.closed.get(handover_id), Source)

    def source(self, handover_id: str) -> SourceHandover | None:
        """The handover with that id, if it is a guest's newest and this host is its source."""
        for each in self.newest.values():
            if isinstance(each, SourceHandover) and each.handover_id == handover_id:
                return each
        return None

    def destination(self, handover_id: str) -> DestinationHandover | None:
        """The handover with that id, if it is a guest's newest and this host is its destination."""
        for each in self.newest.values():
            if isinstance(each, DestinationHandover) and each.handover_id == handover_id:
                return each
        return None

    def lock(self, guest: str) -> asyncio.Lock:
        """The lock to hold while deciding whether a handover of a guest begins."""
        return self._locks.setdefault(("guest", guest), asyncio.Lock())

    def name_lock(self, handover_id: str) -> asyncio.Lock:
        """The lock to hold while deciding what a handover's id means here; acquire it before `lock`."""
        return self._locks.setdefault(("handover", handover_id), asyncio.Lock())

    def is_in_handover(self, guest: str) -> bool:
        """Whether a handover of a guest is under way."""
        newest = self.newest.get(guest)
        if newest is None:
            return False
        # A handover without a state machine has been admitted and is about to begin. A handover is over only
        # when the journal says so.
        written = newest.executor.written
        return (
            newest.state_machine is None
            or newest.state_machine.is_open
            or (written is not None and written.is_open)
        )

    def executor(self, guest: HostedGuest) -> HandoverExecutor:
        """An executor for a new handover of a guest."""
        clock = self.environment.clock
        spans = Spans(self.config.name, clock, self.environment.stopwatch)
        phases = Phases(self._measurements, self.environment.stopwatch)
        return HandoverExecutor(guest, self.journal, spans, phases, self._kill, clock, self._history)

    # -- what refuses a handover --------------------------------------------------------------------

    def refusal(self, guest: str, problem: str, about: Handover | None = None) -> HandoverProblem:
        """The error to raise where nothing was done; ``about`` is the guest's handover, if any."""
        return refusal(self.config.name, guest, problem, about)

    def not_newest(self, guest: str, handover_id: str) -> HandoverProblem:
        """The error where a handover is not a guest's newest here; it tells the state that is on record."""
        here, known = self.config.name, self.closed.get(handover_id)
        if known is not None and known.guest != guest:
            known = None
        state = "" if known is None else known.state.value
        in_doubt = known is not None and is_in_doubt(known)
        text = self.left_out(guest) or (
            f"handover {handover_id} is not under way on {here} and is not the guest's newest; holdover "
            f"handover status {guest} shows the newest"
        )
        problem = Problem(
            detail=f"guest {guest}: {text}", host=here, guest=guest, state=state, in_doubt=in_doubt
        )
        return HandoverProblem(problem)

    def left_out(self, guest: str) -> str:
        """Which open handover waits for a guest that the agent's file does not name any more; empty: none."""
        waiting = (each for each in self.closed.values() if each.is_open and each.guest == guest)
        if guest in self.guests or (found := next(waiting, None)) is None:
            return ""
        return (
            f"handover {found.handover_id} is {found.state.value} on {self.config.name}, whose agent's file "
            "does not name the guest any more; put its [[guest]] back and restart the agent, then the "
            "handover goes on"
        )

    def require_allowance(self, guest: str, handover_id: str) -> None:
        """Check that one more handover of a guest may begin and be put on record.

        Raises:
            HandoverProblem: Too many handovers have begun, or the name is not valid.
        """
        if not handover_id.isprintable() or not 0 < len(handover_id) <= _NAME_LENGTH:
            raise self.refusal(
                guest,
                f"a handover's name has 1 to {_NAME_LENGTH} characters that can be printed; nothing was "
                "changed",
            )
        wait = self._allowance.take(guest, asyncio.get_running_loop().time())
        if wait:
            raise self.refusal(
                guest,
                f"{_AT_ONCE} handovers of this guest have begun on {self.config.name} lately; try again in "
                f"{math.ceil(wait)} s; nothing was changed",
            )

    def require_free(self, guest: HostedGuest) -> None:
        """Raise `HandoverProblem` if a handover of this guest is under way, or this guest cannot have one."""
        if isinstance(guest, LeftToQemu):
            raise self.refusal(guest.name, guest.refusal)
        if self.is_in_handover(guest.name):
            newest = self.newest[guest.name]
            state = "about to begin" if newest.state_machine is None else newest.state_machine.state.value
            raise self.refusal(
                guest.name,
                f"handover {newest.handover_id} of this guest is under way on {self.config.name} ({state}); "
                "wait for it, or end it with holdover handover rollback",
                newest,
            )

    def require_no_nexus_conflict(self, guest: HostedGuest, about: Handover | None = None) -> None:
        """Raise `HandoverProblem` if a handover of this guest would change another guest's registration."""
        if all(device.sole_nexus for device in guest.devices):
            return  # no other guest can be registered by these nexuses; a search would take long
        found = nexus_conflict(guest.name, self._standings({device.designator for device in guest.devices}))
        if found is not None:
            raise self.refusal(
                guest.name,
                f"guest {found.guest} of {self.config.name} is registered on LUN {found.designator} as the "
                f"same I_T nexus as guest {guest.name}: a handover of one would change the other's "
                "registration; give one of them another path to the LUN, or shut it down",
                about,
            )

    def _standings(self, luns: Container[Designator | None]) -> list[NexusRegistration]:
        return [
            NexusRegistration(
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

    def peer_of(self, to: str) -> str:
        """The name of the peer whose name or address is ``to``; if there is none, ``to`` itself."""
        return next((each.name for each in self.config.peer if to in (each.name, each.api)), to)

    def client(self, peer: str) -> PeerClient:
        """The client of a peer's API, by the peer's name, which must be in the peer's certificate.

        Raises:
            AgentError: ``peer`` is not a peer of this host.
        """
        try:
            return self._peers.client(peer)
        except (ConfigError, UnknownPeer) as error:
            raise AgentError(str(error)) from error

    async def close(self) -> None:
        """Stop all handovers in their present states; the journal has all of them."""
        for handover in self.newest.values():
            await handover.close()
