"""Moves a guest from one host to another: its reservations, and itself where it is given both QEMUs.

The order is what keeps the promises. Prepared is while the guest runs; committed when it has stopped on the
source with none of its commands on their way to a disk. From the commit on, commands of the guest wait on the
source, so a QEMU that resumes it there by itself meets closed doors, never a foreign reservation; and the
destination's QEMU goes on only when the reservations are there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from holdover.agent.api import HandoverState
from holdover.agent.client import AgentError
from holdover.agent.handing_over import HandingOver, describe, whole
from holdover.agent.outcome import MigrateFailed, MovedLun, Outcome, Progress
from holdover.qemu.command_line import started_with
from holdover.qemu.migration import GuestPlace, Migration, MigrationFailed
from holdover.qemu.monitor import Monitor, QemuError, QmpEvent, RamProgress

__all__ = ["COPY", "FAIL_AFTER", "SWITCH_OVER", "Orchestrator", "Qemus"]

COPY = "copy memory until the guest has stopped"
SWITCH_OVER = "switch over"
"""Actions of `Progress` by whose end the guest has stopped, and runs again."""

_SEND = "send the rest to the destination"

FAIL_AFTER = ("prepare", "commit")
"""After what a failure can be rehearsed."""


@dataclass(frozen=True, slots=True)
class Qemus:
    """Where to drive a live migration.

    Attributes:
        source, destination: Both QMP sockets.
        uri: Where the destination listens.
        timeout: Seconds for the copy of the memory, and for the switch-over.
        destination_waits: The destination was started with ``-S``; None: look at its command line.
    """

    source: Path
    destination: Path
    uri: str
    timeout: float = 3600.0
    destination_waits: bool | None = None


class _Rehearsed(Exception):
    """That after which a failure was asked for has been done."""


_ENDS_A_MOVE = (AgentError, QemuError, _Rehearsed, asyncio.CancelledError)
"""What ends a handover half done, so that it is rolled back; cancelling is how an interrupt arrives."""


@dataclass
class Orchestrator(HandingOver):
    """One migration of one guest.

    Attributes:
        fail_after: One of `FAIL_AFTER`, to rehearse a failure.
        events: All events of both QEMUs, as (host, event), when the migration has ended.
    """

    fail_after: str | None = None
    events: list[tuple[str, QmpEvent]] = field(default_factory=list)

    async def run(self, qemus: Qemus | None) -> Outcome:
        """Move the reservations; with ``qemus`` live-migrate the guest around it.

        Raises:
            MigrateFailed: The guest was not moved; what was changed has been rolled back, or is in doubt.
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

    async def _with_qemu(self, qemus: Qemus) -> Outcome:
        try:
            source, destination = await self.timed("check", "connect to both QEMUs", "", self._connect(qemus))
        except QemuError as error:
            raise MigrateFailed(str(error), "Nothing was changed.") from error
        try:
            waits = qemus.destination_waits
            if waits is None:
                waits = await asyncio.to_thread(started_with, qemus.destination, "-S")
            migration = Migration(
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

    async def _connect(self, qemus: Qemus) -> tuple[Monitor, Monitor]:
        source = await Monitor.connect(qemus.source, f"QEMU on {self.source_name}")
        try:
            return source, await Monitor.connect(qemus.destination, f"QEMU on {self.destination_name}")
        except BaseException:
            await source.close()
            raise

    async def _migrate(self, migration: Migration, timeout: float) -> Outcome:
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
            # nobody runs the guest: first the reservations, then the guest
            await self.bring_back(error)
            await self._cancel(migration, describe(error))
            raise MigrateFailed(describe(error), self.stays()) from error
        warnings: tuple[str, ...] = ()
        try:
            # no way back from here on, so an interrupt waits for the end
            await self.timed("migrate", SWITCH_OVER, "", whole(_switch_over(migration, timeout)))
        except MigrationFailed as error:
            warnings = await self._after_failed_switch_over(migration, error)
        except QemuError as error:
            raise self._doubt(str(error)) from error
        return await self._end(state, milliseconds, migration.standstill_ms, warnings)

    async def _until_stopped(self, migration: Migration, timeout: float) -> None:
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

    async def _beside_qemu(self, migration: Migration, timeout: float) -> tuple[HandoverState, float]:
        """Commit while QEMU sends the rest, to a destination that waits to be told to run the guest.

        Raises:
            AgentError, QemuError: One of both failed, or was interrupted; both have ended.
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
            # what is rolled back must not still be under way
            failed = commit.done() and commit.exception() is not None
            if failed or not sending.done():
                sending.cancel()
            await whole(_ended(commit, sending))
        state = commit.result()
        sending.result()
        return state, took[0]

    async def _after_failed_switch_over(
        self, migration: Migration, error: MigrationFailed
    ) -> tuple[str, ...]:
        """The reservations have moved and QEMU did not say that the guest runs on the destination."""
        if error.place is GuestPlace.DESTINATION:
            return (str(error),)
        if error.place is GuestPlace.IN_DOUBT:
            raise self._doubt(str(error)) from error
        # the guest is on the source, running or stopped, its commands held at the gate
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

    async def _cancel(self, migration: Migration, reason: str) -> None:
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
    ) -> Outcome:
        finished, more = await self.finish()
        return Outcome(
            guest=self.guest,
            handover=self.handover,
            source=self.source_name,
            destination=self.destination_name,
            devices=tuple(MovedLun.of(lun) for lun in (finished or committed).luns),
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


async def _switch_over(migration: Migration, timeout: float) -> None:
    if migration.destination_waits:
        await migration.run_destination(timeout)
    else:
        await migration.switch_over()
        await migration.wait_arrived(timeout)


async def _ended(*tasks: asyncio.Task[HandoverState] | asyncio.Task[None]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
