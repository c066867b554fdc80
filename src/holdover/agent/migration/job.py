"""The migration of one guest from this host: drives what `holdover.migrate.migration` decides.

One task does the work of one phase after the other. Each phase goes on record before its work begins, unless
the guest stands still. The work itself is in `PhaseWork`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from holdover.agent.handover.kill_hook import KillHook
from holdover.agent.migration.phase_work import PhaseWork
from holdover.api.documents import HandoverState
from holdover.api.migration_documents import MigrationState, PhaseTime
from holdover.journal.journal import JournalError, JournalLike
from holdover.journal.records import HandoverRecord
from holdover.metrics.durations import Durations
from holdover.migrate.migration import Migration, MigrationEvent, NotNow, in_doubt, next_of, now_of, step
from holdover.migrate.phases import Happening, Phase

log = structlog.get_logger()

ROLE = "migration"
"""The role of a migration's records in the journal; the handover of the same id has records of its own."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_INTERRUPTED = frozenset({Phase.COPYING})
"""The phases whose work a cancellation ends; the work of the others comes to its end first."""


def record_of(migration: Migration, at: float) -> HandoverRecord:
    """The record of a migration for the journal."""
    return HandoverRecord(
        handover_id=migration.migration_id,
        guest=migration.guest,
        role=ROLE,
        peer=migration.destination,
        state=migration.phase.value,
        open=migration.is_open,
        body=msgspec.json.encode(migration),
        at=at,
    )


class Job:
    """One migration from this host.

    Attributes:
        migration: The migration now; it may not be on record yet.
        work: Does the work of each phase, and knows how far the copy of the memory is.
    """

    def __init__(
        self,
        migration: Migration,
        work: PhaseWork,
        journal: JournalLike,
        handover: Callable[[], HandoverState | None],
        kill: KillHook,
        clock: Callable[[], float] = time.time,
        standstills: Durations | None = None,
    ) -> None:
        """``handover`` returns the newest handover of the guest; ``kill`` is told of each record.
        ``standstills`` counts how long guests stood still.
        """
        self.migration = migration
        self.work = work
        self._journal = journal
        self._handover = handover
        self._kill = kill
        self._clock = clock
        self._standstills = standstills
        self._phases: list[PhaseTime] = []
        self._cancel = ""
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
        self._notes: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    # -- from outside -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, or go on after `restart`."""
        self._enter(self.migration)
        self._task = asyncio.ensure_future(self._drive())

    def restart(self) -> None:
        """Continue after a restart of the agent."""
        if self.migration.is_open:
            self.migration = step(self.migration, MigrationEvent(Happening.RESTARTED))
        self.start()

    async def cancel(self, why: str) -> None:
        """Let the guest stay; returns when the migration has been turned back.

        Raises:
            NotNow: It is too late, or the migration is over.
        """
        if not self.migration.spec.cancellable:
            raise self._too_late()
        self._cancel = why
        self._asked.set()
        while self.migration.spec.cancellable and self._cancel:
            changed = self._changed
            await changed.wait()
        if not self.migration.reason and self.migration.phase is not Phase.STAYED:
            raise self._too_late()

    def _too_late(self) -> NotNow:
        if not self.migration.is_open:
            return NotNow(f"migration {self.migration.migration_id} is over: {now_of(self.migration)}")
        return NotNow(
            f"it is too late to cancel migration {self.migration.migration_id}: it is "
            f"{self.migration.phase.value}; {now_of(self.migration)}"
        )

    async def ended(self) -> None:
        """Wait until the migration is over, or this agent ends."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def state(self) -> MigrationState:
        """The document that is shown of it."""
        migration = self.migration
        handover = self._handover()
        own = handover is not None and handover.handover_id == migration.migration_id
        return MigrationState(
            migration_id=migration.migration_id,
            guest=migration.guest,
            source=migration.source,
            destination=migration.destination,
            phase=migration.phase.value,
            open=migration.is_open,
            now=now_of(migration),
            next=next_of(migration),
            problem=migration.problem or migration.alarm,
            reason=migration.reason,
            in_doubt=in_doubt(migration),
            moved=migration.moved,
            cancellable=migration.spec.cancellable,
            began=migration.began,
            ended=self._phases[-1].began if self._phases and not migration.is_open else 0.0,
            options=migration.options,
            memory=self.work.memory,
            phases=tuple(self._phases),
            luns=handover.luns if own and handover is not None else (),
            standstill_ms=self.work.standstill_ms,
            commit_ms=self.work.commit_ms,
        )

    async def close(self) -> None:
        """Stop in the present phase; the journal has all of it."""
        tasks = [*self._notes, *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.work.qemus.close()

    # -- the driver ---------------------------------------------------------------------------------

    async def _drive(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self.migration.is_open:
                before = self.migration.phase
                waits = await self._one_phase()
                if self.migration.phase is not before:
                    pause = _FIRST_PAUSE
                elif waits:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
            await self._record()
            if self._standstills is not None and self.work.standstill_ms is not None:
                self._standstills.observe(max(0.0, self.work.standstill_ms) / 1000)
        finally:
            await self.work.qemus.close()
            self._tell()

    async def _one_phase(self) -> bool:
        """Record the phase and do its work. Returns whether to wait before the next attempt, if it is the
        same phase.

        An error that nobody has foreseen must not end the driver: the guest may stand still.
        """
        try:
            if self.migration.spec.durable:
                await self._record()
            else:
                self._note()
            happened = await self._work_of_phase()
            self._step(happened)
        except Exception as error:
            log.error("A migration met an unexpected error.", guest=self.migration.guest, exc_info=error)
            problem = f"{type(error).__name__}: {error} (see this agent's log)"
            self.migration = msgspec.structs.replace(self.migration, problem=problem)
            self._tell()
            return True
        return happened.happening is Happening.UNREACHED

    async def _record(self) -> None:
        """Put the migration on record; while the journal refuses, wait and say so."""
        pause, migration = _FIRST_PAUSE, self.migration
        while True:
            try:
                await self._put(record_of(migration, self._clock()), self._journal.put)
            except JournalError as error:
                log.error(
                    "A migration waits, because the journal takes no records.",
                    guest=self.migration.guest,
                    reason=str(error),
                )
                self.migration = msgspec.structs.replace(migration, problem=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self.migration = migration  # what kept it from going on is over
                return

    def _note(self) -> None:
        """Put the migration on record without waiting for the disk: the guest stands still."""

        async def note(record: HandoverRecord) -> None:
            with contextlib.suppress(JournalError):
                await self._put(record, self._journal.note)

        task = asyncio.ensure_future(note(record_of(self.migration, self._clock())))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _put(self, record: HandoverRecord, put: Callable[[HandoverRecord], Awaitable[None]]) -> None:
        states = (f"{ROLE}-{record.state}",)
        self._kill.before(states)
        await put(record)
        self._kill.after(states)

    async def _work_of_phase(self) -> MigrationEvent:
        """Do the work of the phase; a cancellation comes first where the phase has one."""
        work = asyncio.ensure_future(self._guarded())
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            while not work.done():
                interrupts = self.migration.phase in _INTERRUPTED
                await asyncio.wait(
                    {work, asked} if interrupts else {work}, return_when=asyncio.FIRST_COMPLETED
                )
                if asked.done() and interrupts and not work.done():
                    work.cancel()
                    await asyncio.wait({work})
                    return MigrationEvent(Happening.CANCEL, self._cancel)
            if self._asked.is_set() and self.migration.spec.cancellable and not work.cancelled():
                happened = work.result()
                if self.migration.phase in _INTERRUPTED:
                    return happened
                return self._cancelled(happened)
            return work.result()
        finally:
            asked.cancel()
            work.cancel()

    def _cancelled(self, happened: MigrationEvent) -> MigrationEvent:
        """A cancellation came while the work went on, which has ended with ``happened``."""
        if happened.happening is Happening.DONE:
            return MigrationEvent(Happening.CANCEL, self._cancel, happened.was_running)
        return happened

    async def _guarded(self) -> MigrationEvent:
        """Do the work of the phase; every result, and every error, becomes an event.

        An unexpected error must not leave a guest standing still for ever.
        """
        follows = self.migration.spec.follows
        try:
            happened = await self.work.of(self.migration)
        except Exception as error:
            log.error("A migration met an unexpected error.", guest=self.migration.guest, exc_info=error)
            happened = MigrationEvent(Happening.UNREACHED, f"{type(error).__name__}: {error}")
        if happened.happening in follows:
            return happened
        kind = Happening.UNREACHED if Happening.UNREACHED in follows else Happening.FAILED
        return MigrationEvent(kind, happened.problem)

    def _step(self, happened: MigrationEvent) -> None:
        before = self.migration
        self.migration = step(before, happened)
        if self.migration.phase is not before.phase:
            self._cancel = ""
            self._asked.clear()
            self._enter(self.migration)
        elif happened.problem and happened.problem != before.problem:
            log.warning(
                "A migration has entered a phase.",
                guest=before.guest,
                phase=before.phase.value,
                reason=happened.problem,
            )
        self._tell()

    def _enter(self, migration: Migration) -> None:
        now = self._clock()
        if self._phases:
            self._phases[-1] = msgspec.structs.replace(self._phases[-1], ended=now)
        self._phases.append(PhaseTime(phase=migration.phase.value, began=now))
        log.info(
            "A migration has entered a phase.",
            guest=migration.guest,
            migration_id=migration.migration_id,
            phase=migration.phase.value,
            reason=migration.problem or migration.reason,
        )

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
