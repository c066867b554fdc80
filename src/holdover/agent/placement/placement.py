"""The place of guests, as the rest of the agent asks for it: cold starts, claims, hosts that are dead."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import structlog

from holdover.agent.attach.attachment import Attachments
from holdover.agent.environment import Environment
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.guests.records import device_record
from holdover.agent.handover.handovers import Handovers
from holdover.agent.migration.migrations import Migrations
from holdover.agent.placement.claims import ClaimRefused, Claims
from holdover.agent.placement.cold_start import ColdStarts
from holdover.agent.placement.dead_hosts import DeadHosts, DeclarationRefused
from holdover.agent.placement.logins import Logins
from holdover.agent.placement.places import Places
from holdover.agent.placement.refusal import ColdStartRefused
from holdover.agent.placement.releasing import Releasing
from holdover.agent.placement.sending import Sending
from holdover.agent.placement.taking import Taking
from holdover.api.client import AgentError
from holdover.api.documents import Problem
from holdover.api.migration_documents import GuestStarted, SendRequest, StartRequest
from holdover.api.peer_hosts import PeerClient, Peers, UnknownPeer
from holdover.api.placement_documents import (
    Declaration,
    HostDeclaration,
    HostList,
    PeerHost,
    PlaceAnswer,
    PlacementResult,
    PlaceQuestion,
)
from holdover.config.agent_file import AgentConfig, ConfigError
from holdover.guest.gate import Gate
from holdover.iscsi.target.target import SessionChange
from holdover.journal.journal import JournalError, JournalLike

log = structlog.get_logger()


class PlacementProblem(Exception):
    """The host did not do what was asked about the place of a guest; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Placement:
    """The place of the guests of one host; the rest of the agent shares the dictionary ``guests``.

    Attributes:
        hosts: The hosts that are declared dead.
    """

    def __init__(
        self,
        config: AgentConfig,
        guests: dict[str, HostedGuest],
        peers: Peers,
        journal: JournalLike,
        handovers: Handovers,
        migrations: Migrations,
        attachments: Attachments,
        environment: Environment,
    ) -> None:
        """``attachments`` has the guests with their gates."""
        attached = attachments.get
        self._config = config
        self._guests = guests
        self._peers = peers
        self._journal = journal
        self._attached = attached

        def now() -> AgentConfig:
            return self._config

        self._places = Places(guests, attached, handovers, migrations.is_migrating)
        self.hosts = DeadHosts(now, self._client, environment.clock, environment.boot(), self._shut)
        self._claims = Claims(now, self._places, self._client, self.hosts)
        taking = Taking(handovers, self.hosts.initiator, environment.spare_key)
        self._starts = ColdStarts(
            now, guests, handovers, journal, attached, self._claims, self._client, self.hosts, taking
        )
        self._sending = Sending(now, guests, handovers, migrations.monitors, attached)
        self._releasing = Releasing(
            config.name, guests, attached, self._places, self._sending, journal, attachments.forget
        )
        self._logins = Logins(config.name, guests, self._places, self._claims)

    def reconfigure(self, config: AgentConfig) -> None:
        """Use ``config`` from now on."""
        self._config = config

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator must know of hosts that are dead, and of guests that log in where they are not."""
        return (*self.hosts.warnings, *self._logins.warnings)

    # -- asked by operators -------------------------------------------------------------------------

    async def start(self, guest: str, request: StartRequest) -> GuestStarted:
        """Bring a guest that runs nowhere to this host.

        Raises:
            PlacementProblem: It may run elsewhere, or cannot come.
        """
        try:
            for host in request.without:
                await self.hosts.declare_dead(host, "holdover guest start --without", "")
            return await self._starts.start(guest, request.handover_id)
        except (ColdStartRefused, DeclarationRefused) as error:
            raise self._problem(guest, str(error)) from error

    def moves(self, guest: str) -> bool:
        """Whether a handover or a migration of a guest is under way here."""
        return self._places.moves(guest)

    async def open_here(self, guest: str) -> None:
        """Let a guest run here that no host has; what it has by a dead host is taken.

        Raises:
            ClaimRefused, ColdStartRefused: It may not run here; the message says why.
        """
        await self._starts.open_here(guest, secrets.token_hex(8))

    async def admit(self, guest: str, run: Callable[[], Awaitable[None]]) -> str:
        """Claim a guest that no host has, and call ``run`` when it may run here.

        Returns why it may not, or nothing.
        """
        try:
            async with self._claims.claimed(guest):
                await run()
        except ClaimRefused as error:
            return str(error)
        return ""

    async def release(self, guest: str) -> PlacementResult:
        """Remove a guest's registrations by this host from its LUNs.

        Raises:
            PlacementProblem: It runs or moves, or a LUN refuses.
        """
        return await self._do(guest, self._releasing.release)

    async def forget(self, guest: str) -> PlacementResult:
        """Remove a guest that has nothing from the record.

        Raises:
            PlacementProblem: It has something, runs or moves, or is in the agent's file.
        """
        return await self._do(guest, self._releasing.forget)

    async def _do(self, guest: str, what: Callable[[str], Awaitable[str]]) -> PlacementResult:
        try:
            return PlacementResult(guest=guest, host=self._config.name, text=await what(guest))
        except ColdStartRefused as error:
            raise self._problem(guest, str(error)) from error

    async def declare(self, host: str, request: HostDeclaration, by: str) -> HostList:
        """Put on record that a peer is dead, or alive again; ``by`` says so.

        Raises:
            PlacementProblem: It is not on record.
        """
        try:
            if request.dead:
                await self.hosts.declare_dead(host, by, request.why)
            else:
                await self.hosts.declare_alive(host, by)
        except DeclarationRefused as error:
            raise self._problem("", str(error)) from error
        return await self.list_hosts()

    async def list_hosts(self) -> HostList:
        """The peers of this host, and what is declared of them."""
        peers = self._config.peer
        problems = await asyncio.gather(*(self.hosts.problem(peer.name) for peer in peers))
        return HostList(
            host=self._config.name,
            hosts=tuple(
                PeerHost(
                    name=peer.name,
                    api=peer.api,
                    answers=not problem,
                    problem=problem,
                    dead=self.hosts.declaration(peer.name),
                    declares=self.hosts.declared_by.get(peer.name),
                )
                for peer, problem in zip(peers, problems, strict=True)
            ),
        )

    # -- asked by peers -----------------------------------------------------------------------------

    async def send(self, request: SendRequest, sender: str) -> None:
        """Hand a guest that does not run here over to the host that asks for it.

        Raises:
            PlacementProblem: It runs here, or was not handed over.
        """
        try:
            await self._sending.send(request, sender)
        except ColdStartRefused as error:
            raise self._problem(request.guest, str(error)) from error

    def receive(self, question: PlaceQuestion, sender: str) -> PlaceAnswer:
        """What this host says of a guest to another host."""
        return self._claims.receive(question, sender)

    async def hear_declaration(self, declaration: Declaration, sender: str) -> None:
        """Another host has declared this one dead, or does not any more.

        Raises:
            PlacementProblem: This cannot be put on record.
        """
        try:
            await self.hosts.receive(sender, declaration.dead)
        except OSError as error:
            raise self._problem("", f"the declaration cannot be put on record: {error}") from error

    # -- while the agent runs -----------------------------------------------------------------------

    def session_changed(self, guest: str, change: SessionChange) -> None:
        """Note that an initiator has logged in to a guest's export, or has gone."""
        self._logins.changed(guest, change)

    async def shut_if_declared_dead(self) -> None:
        """Shut the gates of all guests if a peer's declaration that this host is dead is on record.

        The record of a gate may be older than the declaration.
        """
        if self.hosts.declared_by:
            await self._shut()

    async def _shut(self) -> None:
        """This host is declared dead: shut the gates of its guests, on record."""
        for name in tuple(self._guests):
            attached = self._attached(name)
            if attached is None or attached.gate_now is not Gate.RUNNING or self._places.moves(name):
                continue
            attached.move_gate(Gate.DEPARTED)
            known = [each for each in attached.guest.devices if each.designator is not None]
            try:
                await self._journal.put(*(device_record(name, each) for each in known))
            except JournalError as error:
                log.error("A shut gate could not be put on record.", guest=name, reason=str(error))

    async def close(self) -> None:
        """Ask and tell nobody any more."""
        await self._logins.close()
        await self.hosts.close()

    def _problem(self, guest: str, text: str) -> PlacementProblem:
        return PlacementProblem(Problem(detail=text, host=self._config.name, guest=guest))

    def _client(self, peer: str) -> PeerClient:
        try:
            return self._peers.client(peer)
        except (ConfigError, UnknownPeer) as error:
            raise AgentError(str(error)) from error
