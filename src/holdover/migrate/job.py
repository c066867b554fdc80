"""Moves a guest from one host to another: its reservations, and the guest itself if both QEMUs are given.

The order of the steps keeps the guest safe. The handover is prepared while the guest runs. It is committed
when the guest has stopped on the source and none of its commands is on the way to a disk. From the commit on,
the gate on the source holds the guest's commands. So if QEMU resumes the guest there by itself, the guest
waits at the gate and never acts under a reservation that is not its own. The destination's QEMU runs the
guest only when the reservations are there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from holdover.api.client import AgentError
from holdover.api.documents import HandoverState
from holdover.migrate.handover import RemoteHandover, describe, whole
from holdover.migrate.result import MigrateFailed, MigrationResult, Progress
from holdover.qemu.command_line import started_with
from holdover.qemu.migration import GuestPlace, LiveMigration, MigrationFailed
from holdover.qemu.monitor import QemuError, QemuMonitor, QmpEvent, RamProgress

COPY = "copy memory until the guest has stopped"
SWITCH_OVER = "switch over"
"""Actions of `Progress`: when the first ends, the guest has stopped; when the second ends, it runs again."""

_SEND = "send the rest to the destination"


@dataclass(frozen=True, slots=True)
class Qemus:
    """The two QEMUs of a live migration.

    Attributes:
        source, destination: The QMP socket of each QEMU.
        uri: The address at which the destination listens.
        timeout: Seconds for the copy of the memory, and for the switch-over.
        destination_waits: Whether the destination was started with ``-S``; None: look at its command line.
    """

    source: Path
    destination: Path
    uri: str
    timeout: float = 3600.0
    destination_waits: bool | None = None


class _Rehearsed(Exception):
    """The failure that ``fail_after`` asks for: its step has been done."""


_ENDS_A_MOVE = (AgentError, QemuError, _Rehearsed, asyncio.CancelledError)
"""The errors and interrupts that end a handover before its end, so that it is rolled back. An interrupt
arrives as CancelledError.
"""


@dataclass
class MigrationJob(RemoteHandover):
    """One migration of one guest.

    Attributes:
        fail_after: The step after which a failure is rehearsed: "prepare" or "commit".
        events: All events of both QEMUs, as (host, event); complete when the migration has ended.
    """

    fail_after: str | None = None
    events: list[tuple[str, QmpEvent]] = field(default_factory=list)

    async def run(self, qemus: Qemus | None) -> MigrationResult:
        """Move the reservations; with ``qemus``, live-migrate the guest as well.

        Raises:
            MigrateFailed: The guest was not moved. What was changed has been rolled back, or is in doubt.
        """
        await self.check()
        if qemus is not None:
            return await self._with_qemu(qemus)
        await self.prepare()
        try:
            self._rehearse("prepare")
            began = time.perf_counter()
            state = await self.commit()
            milliseconds = (time.perf_counter() - began) * 1000
            self._rehearse("commit")
        except _ENDS_A_MOVE as error:
            await self.bring_back(error)
            raise MigrateFailed(describe(error), self.stays()) from error
        return await self._end(state, milliseconds, None, ())

    def _rehearse(self, done: str) -> None:
        if self.fail_after == done:
            raise _Rehearsed(f"a failure after {done} was asked for (--fail-after)")

    async def _with_qemu(self, qemus: Qemus) -> MigrationResult:
        try:
            source, destination = await self.timed("check", "connect to both QEMUs", "", self._connect(qemus))
        except QemuError as error:
            raise MigrateFailed(str(error), "Nothing was changed.") from error
        try:
            waits = qemus.destination_waits
            if waits is None:
                waits = await asyncio.to_thread(started_with, qemus.destination, "-S")
            migration = LiveMigration(
                source, destination, qemus.uri, destination_waits=bool(waits), on_progress=self._memory
            )
            try:
                await migration.check()
            except QemuError as error:
                raise MigrateFailed(str(error), "Nothing was changed.") from error
            await self.prepare()
            return await self._migrate(migration, qemus.timeout)
        finally:
            for host, monitor in ((self.source_name, source), (self.destination_name, destination)):
                self.events += [(host, event) for event in monitor.events]
                await monitor.close()

    async def _connect(self, qemus: Qemus) -> tuple[QemuMonitor, QemuMonitor]:
        source = await QemuMonitor.connect(qemus.source, f"QEMU on {self.source_name}")
        try:
            return source, await QemuMonitor.connect(qemus.destination, f"QEMU on {self.destination_name}")
        except BaseException:
            await source.close()
            raise

    async def _migrate(self, migration: LiveMigration, timeout: float) -> MigrationResult:
        await self._until_stopped(migration, timeout)
        began = time.perf_counter()
        try:
            if migration.destination_waits:
                state, milliseconds = await self._beside_qemu(migration, timeout)
            else:
                state = await self.commit()
                milliseconds = (time.perf_counter() - began) * 1000
            self._rehearse("commit")
        except _ENDS_A_MOVE as error:
            # nobody runs the guest now: bring back the reservations first, then the guest
            await self.bring_back(error)
            await self._cancel(migration, describe(error))
            raise MigrateFailed(describe(error), self.stays()) from error
        warnings: tuple[str, ...] = ()
        try:
            # there is no way back from here on, so an interrupt waits for the end
            await self.timed("migrate", SWITCH_OVER, "", whole(_switch_over(migration, timeout)))
        except MigrationFailed as error:
            warnings = await self._after_failed_switch_over(migration, error)
        except QemuError as error:
            raise self._doubt(str(error)) from error
        return await self._end(state, milliseconds, migration.standstill_ms, warnings)

    async def _until_stopped(self, migration: LiveMigration, timeout: float) -> None:
        async def stopped() -> None:
            await migration.start()
            await migration.wait_stopped(timeout)

        try:
            self._rehearse("prepare")
            await self.timed("migrate", COPY, "", stopped())
        except _ENDS_A_MOVE as error:
            try:
                await self._cancel(migration, describe(error))
            finally:
                await self.roll_back(describe(error))
            raise MigrateFailed(describe(error), self.stays()) from error

    async def _beside_qemu(self, migration: LiveMigration, timeout: float) -> tuple[HandoverState, float]:
        """Commit while QEMU sends the rest to a destination that waits for the command to run the guest.

        Raises:
            AgentError, QemuError: The commit or the sending failed or was interrupted; both have ended.
        """

        async def send() -> None:
            await migration.switch_over()
            await migration.wait_arrived(timeout)

        began = time.perf_counter()
        commit = asyncio.ensure_future(self.commit())
        took: list[float] = []
        commit.add_done_callback(lambda _: took.append((time.perf_counter() - began) * 1000))
        sending = asyncio.ensure_future(self.timed("migrate", _SEND, "", send()))
        try:
            await asyncio.wait((commit, sending), return_when=asyncio.FIRST_EXCEPTION)
        finally:
            # The commit must have ended before it is rolled back.
            failed = commit.done() and commit.exception() is not None
            if failed or not sending.done():
                sending.cancel()
            await whole(_ended(commit, sending))
        state = commit.result()
        sending.result()
        return state, took[0]

    async def _after_failed_switch_over(
        self, migration: LiveMigration, error: MigrationFailed
    ) -> tuple[str, ...]:
        """Handle a switch-over that failed after the reservations have moved.

        QEMU did not say that the guest runs on the destination. Returns warnings if it runs there after all.
        """
        if error.place is GuestPlace.DESTINATION:
            return (str(error),)
        if error.place is GuestPlace.IN_DOUBT:
            raise self._doubt(str(error)) from error
        # the guest is on the source, running or stopped; the gate holds its commands
        await self.bring_back(error)
        await self._cancel(migration, str(error))
        raise MigrateFailed(str(error), self.stays()) from error

    def _doubt(self, reason: str) -> MigrateFailed:
        return MigrateFailed(
            reason,
            f"The reservations are on {self.destination_name}; whether the guest is there too is in doubt. "
            f"If it is: holdover handover finish {self.guest} --at {self.source.api}. If it is not, bring "
            f"them back: holdover handover rollback {self.guest} --at {self.source.api}",
            in_doubt=True,
        )

    async def _cancel(self, migration: LiveMigration, reason: str) -> None:
        try:
            await self.timed("rollback", "cancel the migration", self.source_name, whole(migration.cancel()))
        except QemuError as error:
            raise MigrateFailed(
                f"{reason}; then the migration could not be cancelled: {error}",
                f"The reservations are on {self.source_name}, where the guest's commands pass; look at the "
                "guest there.",
            ) from error

    async def _end(
        self,
        committed: HandoverState,
        milliseconds: float,
        standstill: float | None,
        warnings: tuple[str, ...],
    ) -> MigrationResult:
        finished, more = await self.finish()
        return MigrationResult(
            guest=self.guest,
            handover_id=self.handover_id,
            source=self.source_name,
            destination=self.destination_name,
            devices=(finished or committed).luns,
            milliseconds=milliseconds,
            standstill_ms=standstill,
            warnings=(*warnings, *more),
        )

    def _memory(self, ram: RamProgress) -> None:
        sent, left, total = (size / 2**20 for size in (ram.transferred, ram.remaining, ram.total))
        self.tell(
            Progress(
                phase="migrate",
                action=COPY,
                host="",
                state="goes on",
                at=time.perf_counter() - self._started,
                detail=f"{sent:.0f} MiB sent, {left:.0f} of {total:.0f} MiB left",
            )
        )


async def _switch_over(migration: LiveMigration, timeout: float) -> None:
    if migration.destination_waits:
        await migration.run_destination(timeout)
    else:
        await migration.switch_over()
        await migration.wait_arrived(timeout)


async def _ended(*tasks: asyncio.Task[HandoverState] | asyncio.Task[None]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
