"""All migrations of one host: the requests of operators, and those of the agents whose guests come here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.attach.hosted_guest import LeftToQemu
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.handovers import HandoverProblem, Handovers
from holdover.agent.handover.kill_hook import KillHook
from holdover.agent.migration.arrivals import ArrivalRefused, Arrivals
from holdover.agent.migration.dry_run import dry_run
from holdover.agent.migration.job import ROLE, Job
from holdover.agent.migration.monitors import Monitors
from holdover.agent.migration.phase_work import PhaseWork
from holdover.agent.migration.tls_folder import TlsFolders
from holdover.api.client import AgentError
from holdover.api.documents import Problem
from holdover.api.migration_documents import (
    MigrationChange,
    MigrationList,
    MigrationRequest,
    MigrationState,
    QemuAnswer,
    QemuRequest,
)
from holdover.api.peer_hosts import PeerClient, Peers, UnknownPeer
from holdover.api.version import API_VERSION, refusal_of_version
from holdover.config.agent_file import AgentConfig, ConfigError
from holdover.guest.gate import Gate
from holdover.journal.journal import JournalLike
from holdover.journal.records import HandoverRecord
from holdover.metrics.measurements import Measurements
from holdover.migrate.migration import Migration, NotNow
from holdover.qemu.monitor import QemuError

log = structlog.get_logger()


class MigrationProblem(Exception):
    """The host did not do what was asked of a migration; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Migrations:
    """The migrations of one host; the rest of the agent shares the dictionary ``guests``.

    Attributes:
        monitors: Connects to the monitors of guests' QEMUs here.
    """

    def __init__(
        self,
        config: AgentConfig,
        guests: dict[str, HostedGuest],
        peers: Peers,
        journal: JournalLike,
        handovers: Handovers,
        attached: Callable[[str], Attached | None],
        measurements: Measurements | None = None,
    ) -> None:
        """``attached`` returns a guest that comes through the helper's socket."""
        self._config = config
        self._guests = guests
        self._peers = peers
        self._journal = journal
        self._handovers = handovers
        self._measurements = measurements or Measurements()
        self._tls = TlsFolders(lambda: self._config)
        self.monitors = Monitors(lambda: self._config, attached)
        self._arrivals = Arrivals(
            lambda: self._config,
            self.monitors,
            handovers.summary,
            self._tls,
            self._passes,
            handovers.settled,
        )
        self._kill = KillHook.from_environment()
        self._jobs: dict[str, Job] = {}
        self._restored: dict[str, Job] = {}
        self._unreadable: dict[str, str] = {}
        """For each guest whose open migration has an unreadable record, what an operator must know."""

    def reconfigure(self, config: AgentConfig) -> None:
        """Use ``config`` from now on."""
        self._config = config

    # -- asked by operators -------------------------------------------------------------------------

    async def begin(self, guest: str, request: MigrationRequest) -> MigrationState:
        """Begin a migration and return at once; with ``dry_run`` return what was found.

        Raises:
            MigrationProblem: It has not begun, and nothing was changed.
        """
        job = self._jobs.get(guest)
        if job is not None and job.migration.migration_id == request.migration_id:
            return job.state()
        if job is not None and job.migration.is_open:
            raise self._problem(
                guest,
                f"migration {job.migration.migration_id} of guest {guest} to {job.migration.destination} is "
                f"under way ({job.migration.phase.value}); holdover migrations attach {guest}, or holdover "
                f"migrations cancel {guest}",
            )
        migration = self._new(guest, request)
        if request.dry_run:
            return await self._dry_run(migration)
        self._require_ready(guest)
        self._unreadable.pop(guest, None)
        job = self._job(migration)
        job.start()
        return job.state()

    def _new(self, guest: str, request: MigrationRequest) -> Migration:
        return Migration(
            migration_id=request.migration_id,
            guest=guest,
            source=self._config.name,
            destination=self._peer_name(request.to),
            began=time.time(),
            options=request.options,
        )

    def _peer_name(self, to: str) -> str:
        return next((each.name for each in self._config.peer if to in (each.name, each.api)), to)

    def _require_ready(self, guest: str) -> None:
        if guest in self._restored:
            raise self._problem(
                guest,
                "this agent was restarted and is still asking the guest's LUNs; ask again in a moment",
            )

    async def _dry_run(self, migration: Migration) -> MigrationState:
        work = self._work(migration)
        try:
            await self._check(migration)
            return await dry_run(
                migration,
                self._guests[migration.guest],
                self.monitors,
                lambda: self._client(migration.destination),
                Job(migration, work, self._journal, lambda: None, self._kill).state(),
            )
        except (HandoverProblem, AgentError, QemuError) as error:
            raise self._problem(migration.guest, f"{error}; nothing was changed") from error
        finally:
            await work.qemus.close()

    def state(self, guest: str) -> MigrationState | None:
        """The newest migration of a guest from this host; None if there was none."""
        job = self._jobs.get(guest)
        return None if job is None else job.state()

    def states(self) -> MigrationList:
        """The newest migration of each guest from this host."""
        return MigrationList(
            host=self._config.name, migrations=tuple(job.state() for job in self._jobs.values())
        )

    async def cancel(self, guest: str, migration_id: str) -> MigrationState:
        """Let a guest stay; returns when its migration has turned back.

        Raises:
            MigrationProblem: It is too late, or no such migration is under way.
        """
        job = self._known(guest, migration_id)
        try:
            await job.cancel("it was cancelled (holdover migrations cancel)")
        except NotNow as error:
            raise self._problem(guest, str(error), job) from error
        return job.state()

    async def change(self, guest: str, change: MigrationChange) -> MigrationState:
        """Change a migration that is under way.

        Raises:
            MigrationProblem: Nothing was changed.
        """
        job = self._known(guest, "")
        try:
            await job.work.qemus.change(change)
        except QemuError as error:
            raise self._problem(guest, str(error), job) from error
        return job.state()

    def _known(self, guest: str, migration_id: str) -> Job:
        job = self._jobs.get(guest)
        if job is None or migration_id not in ("", job.migration.migration_id):
            what = f"migration {migration_id}" if migration_id else "no migration"
            raise self._problem(guest, f"{self._config.name} knows {what} of guest {guest}")
        return job

    def _problem(self, guest: str, text: str, job: Job | None = None) -> MigrationProblem:
        state = "" if job is None else job.migration.phase.value
        return MigrationProblem(Problem(detail=text, host=self._config.name, guest=guest, step=state))

    def is_migrating(self, guest: str) -> bool:
        """Whether a migration of a guest from here is under way."""
        job = self._jobs.get(guest)
        return job is not None and job.migration.is_open

    # -- asked by peers -----------------------------------------------------------------------------

    async def receive(self, request: QemuRequest, sender: str, own_address: str) -> QemuAnswer:
        """Do what the agent of a migration's source asks of the QEMU here.

        Raises:
            MigrationProblem: It was not done.
        """
        try:
            return await self._arrivals.ask(request, sender, own_address)
        except ArrivalRefused as error:
            raise self._problem(request.guest, str(error)) from error

    async def run_taken(self, guest: str) -> None:
        """The guest was taken from a source that is dead: run it, if its QEMU here has the whole guest.

        Raises:
            MigrationProblem: Its QEMU cannot be asked, or refuses. The reservations are here.
        """
        try:
            await self._arrivals.run_taken(guest)
        except QemuError as error:
            raise self._problem(
                guest,
                f"guest {guest}'s reservations are on {self._config.name}, and it does not run: {error}",
            ) from error

    @property
    def under_way(self) -> int:
        """How many migrations from this host are not over."""
        return sum(job.migration.is_open for job in self._jobs.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator must know of migrations that cannot go on."""
        states = [job.state() for job in self._jobs.values() if job.migration.is_open]
        return (
            *self._unreadable.values(),
            *(
                f"guest {state.guest}: migration to {state.destination} is {state.phase}: {state.problem}; "
                f"{state.now}; {state.next}"
                for state in states
                if state.problem
            ),
        )

    def _passes(self, guest: str) -> bool:
        found = self._guests.get(guest)
        return found is not None and all(device.block.gate is Gate.RUNNING for device in found.devices)

    # -- after a restart ----------------------------------------------------------------------------

    def restore(self, records: tuple[HandoverRecord, ...]) -> tuple[HandoverRecord, ...]:
        """Read the migrations on record. Each one continues when `go_on` is called for its guest.

        Returns the other records, which are those of handovers.
        """
        for record in records:
            if record.role != ROLE:
                continue
            try:
                migration = msgspec.json.decode(record.body, type=Migration)
            except (msgspec.DecodeError, ValueError) as error:
                log.error(
                    "The record of a migration cannot be read; look at the guest on both hosts.",
                    guest=record.guest,
                    migration_id=record.handover_id,
                    reason=str(error),
                )
                if record.open:
                    self._unreadable[record.guest] = (
                        f"guest {record.guest}: the record of its migration {record.handover_id} to "
                        f"{record.peer} cannot be read, so nothing drives it; look whether the guest runs on "
                        f"{record.peer} or here, then holdover handover status {record.guest}"
                    )
                continue
            before = self._jobs.get(migration.guest)
            if before is not None and before.migration.is_open and not migration.is_open:
                continue
            job = self._job(migration)
            if migration.is_open:
                self._restored[migration.guest] = job
            else:
                self._restored.pop(migration.guest, None)
        return tuple(record for record in records if record.role != ROLE)

    def go_on(self, guest: str) -> None:
        """Continue the open migration of a guest, if there is one; its handover has been continued."""
        job = self._restored.pop(guest, None)
        if job is not None:
            job.restart()

    async def close(self) -> None:
        """Stop all migrations in their present phases; this changes nothing in a QEMU."""
        await asyncio.gather(*(job.close() for job in self._jobs.values()))
        await self._arrivals.close()

    # -- what a job needs ---------------------------------------------------------------------------

    def _job(self, migration: Migration) -> Job:
        job = Job(
            migration,
            self._work(migration),
            self._journal,
            lambda: self._handovers.state(migration.guest),
            self._kill,
            standstills=self._measurements.standstills,
        )
        self._jobs[migration.guest] = job
        return job

    def _work(self, migration: Migration) -> PhaseWork:
        return PhaseWork(
            self._handovers,
            self.monitors,
            self._tls,
            lambda: self._client(migration.destination),
            lambda: self._config.limits.give_up,
            self._check,
        )

    def _client(self, peer: str) -> PeerClient:
        try:
            return self._peers.client(peer)
        except (ConfigError, UnknownPeer) as error:
            raise AgentError(str(error)) from error

    async def _check(self, migration: Migration) -> None:
        """Check what needs no QEMU: the guest, the other agent and its version.

        Raises:
            MigrationProblem, HandoverProblem, AgentError: The migration cannot begin.
        """
        here = self._config.name
        guest = self._guests.get(migration.guest)
        if guest is None:
            raise AgentError(f"{here} has no guest {migration.guest}")
        if isinstance(guest, LeftToQemu):
            raise AgentError(f"guest {guest.name}: {guest.refusal}")
        if self._handovers.is_in_handover(guest.name):
            state = self._handovers.summary(guest.name)
            if state is None or state.handover_id != migration.migration_id:
                raise AgentError(
                    f"a handover of guest {guest.name} is under way on {here}; holdover handover status "
                    f"{guest.name} says what comes next"
                )
        for device in guest.devices:
            if device.block.gate is not Gate.RUNNING:
                raise AgentError(
                    f"guest {guest.name} does not run on {here}: the gate of {device.name} is "
                    f"{device.block.gate.value}; migrate it from the host on which it runs"
                )
        if refused := self._handovers.refusal_of_host(migration.destination):
            raise AgentError(refused)
        there = await self._client(migration.destination).peer_state(migration.migration_id)
        unfit = refusal_of_version(here, API_VERSION, migration.destination, there.version)
        if unfit is not None:
            raise AgentError(unfit)
