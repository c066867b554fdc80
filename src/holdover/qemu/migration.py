"""Drives one live migration, with a moment in which the guest runs on neither side.

The order of events in QEMU 7.2, with the capabilities `events` and `pause-before-switchover`:

    source                          destination       who runs the guest
    MIGRATION setup, active         MIGRATION active  source
    STOP                                              nobody
    MIGRATION pre-switchover                          nobody: here the reservations move
    (migrate-continue)
    MIGRATION device, completed                       nobody
                                    RESUME            destination
                                    MIGRATION completed

What can end a migration early, and where the guest is then:

- migrate_cancel, before or in `pre-switchover`: the source runs the guest again by itself (RESUME, then
  MIGRATION cancelled). The destination's QEMU ends with an error, because its stream broke off.
- The destination dies in `pre-switchover`: the source does not notice. After migrate-continue the source
  reports `failed` and **runs the guest again by itself, at once**. So the gate must not fail the guest's
  commands then: it must hold them until the reservations are back.
- The destination dies later: the source reports `completed` as soon as the last byte is in a socket's
  buffer, whether or not the destination read this byte. The guest stays stopped on the source
  (`postmigrate`), and `cont` would run it again there, unharmed.
- migrate_cancel after migrate-continue: this module never sends it. With the capability `return-path` the
  source would run the guest again, while the destination may still find the whole guest in its socket and
  run it too. Then two copies of the guest run (seen with QEMU 7.2 and a destination that stood still for a
  second).
- The source dies before it has sent everything: the destination's QEMU ends too.

So there is one point of no return, `switch_over`. Before it, `cancel` always succeeds while the source lives.
After it, `cancel` brings the guest back only when it is certain that the destination does not run the guest.

A destination that was started with `-S` does not run the guest when the guest has arrived; it runs the guest
when it gets `cont`. Then `switch_over` is not a point of no return: the caller may let QEMU go on at once,
and do its own work meanwhile. When both are done, the caller calls `run_destination`, which is the point of
no return. Before that, `cancel` ends the destination's QEMU, which may have the whole guest, so that nobody
can run the guest there later.

In both cases `pause-before-switchover` is set, because only `pre-switchover` means that no command of the
guest is on its way to a disk any more. STOP is too early: after it QEMU still waits for such commands. It
would do harm to move the guest's reservations while these commands run, or to hold these commands while QEMU
waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

from holdover.qemu.monitor import (
    MonitorLost,
    QemuError,
    QemuMonitor,
    QemuRefused,
    QmpEvent,
    QmpTime,
    RamProgress,
)

_PROGRESS_INTERVAL = 0.5
_STATE_INTERVAL = 0.01
_CANCEL_TIMEOUT = 30.0
_END_TIMEOUT = 10.0
_ENDED = frozenset({"completed", "failed", "cancelled"})
_NOT_UNDER_WAY = _ENDED | {"none"}
# Not `postmigrate`: such a guest runs elsewhere already, and QEMU would send it a second time.
_MIGRATES = frozenset({"running", "paused"})

_T = TypeVar("_T")


class GuestPlace(StrEnum):
    """Where the guest is, as far as this is known."""

    SOURCE = "runs on the source"
    SOURCE_STOPPED = "is stopped on the source"
    DESTINATION = "is on the destination"
    IN_DOUBT = "may be on either side"


class MigrationFailed(QemuError):
    """The migration, or its cancellation, failed.

    Attributes:
        status: The source's migration status when it is known ("failed", "pre-switchover", ...).
        place: Where the guest is now.
    """

    def __init__(self, problem: str, *, status: str | None, place: GuestPlace) -> None:
        super().__init__(f"{problem}; the guest {place.value}")
        self.status = status
        self.place = place


class LiveMigration:
    """One live migration from `source` to `destination`. The caller calls the methods in their order here.

    The caller closes both monitors. The destination was started with `-incoming`, and listens already. Every
    step raises `MonitorLost` when a QEMU that the step needs has gone, and `MigrationFailed` when QEMU lives
    and the migration has failed.

    Attributes:
        destination_waits: Whether the destination runs the guest only when it is told to.
    """

    def __init__(
        self,
        source: QemuMonitor,
        destination: QemuMonitor,
        uri: str,
        *,
        destination_waits: bool = False,
        on_progress: Callable[[RamProgress], None] | None = None,
    ) -> None:
        """Calls `on_progress` every half second while QEMU sends memory, and once when all memory is sent."""
        self.source = source
        self.destination = destination
        self.uri = uri
        self.destination_waits = destination_waits
        self._on_progress = on_progress
        self._was_running = False
        self._source_since = 0
        self._destination_since = 0
        self._continued = False
        """Whether migrate-continue has been sent: then the destination may have the whole guest."""
        self._given = False
        """Whether the destination may run the guest."""

    async def check(self) -> None:
        """Raise QemuError when the two are not ready for a migration. Begins nothing."""
        self._source_since = len(self.source.events)
        self._destination_since = len(self.destination.events)
        under_way = (await self.source.query_migrate()).status
        if under_way not in _NOT_UNDER_WAY:
            raise QemuError(f"{self.source.name} is migrating already ({under_way})")
        state = await self.source.query_status()
        if state not in _MIGRATES:
            raise QemuError(f"{self.source.name} has no guest to migrate: its state is {state}")
        if (waiting := await self.destination.query_status()) != "inmigrate":
            problem = f"does not wait for a guest: its state is {waiting}; start it with -incoming"
            raise QemuError(f"{self.destination.name} {problem}")
        self._was_running = state == "running"

    async def start(self) -> None:
        """Check, set the capabilities and begin the migration; the guest still runs on the source.

        These capabilities stay set afterwards; all other capabilities stay as the operator set them.
        """
        await self.check()
        if self.destination_waits:
            # A QEMU that waits for a guest takes this as -S, whatever it was told since its start.
            await self.destination.execute("stop")
        await _set_capabilities(self.destination, "events")
        await _set_capabilities(self.source, "events", "pause-before-switchover")
        await self.source.execute("migrate", {"uri": self.uri})

    async def wait_stopped(self, timeout: float) -> None:
        """Wait until the guest has stopped on the source and QEMU is in `pre-switchover`."""
        async with self._reporting():
            event = await self._within(
                timeout,
                "pre-switchover was not reached",
                self.source.wait_event(_status_in(_ENDED | {"pre-switchover"}), since=self._source_since),
            )
        if event.migration_status != "pre-switchover":
            await self._raise_ended()

    async def switch_over(self) -> None:
        """Let QEMU send the rest of the guest.

        This is the point of no return, unless the destination waits for `run_destination`.
        """
        self._continued = True
        if not self.destination_waits:
            self._given = True
        await self.source.execute("migrate-continue", {"state": "pre-switchover"})

    async def wait_arrived(self, timeout: float) -> None:
        """Wait until the destination has the whole guest.

        The destination then also runs the guest, unless it waits for `run_destination`.

        A guest that was paused when the migration began is left paused.
        """
        await self._within(timeout, "the destination does not have the guest", self._arrive())
        await self._report_once()

    async def run_destination(self, timeout: float) -> None:
        """Let a destination that waits run the guest. This is the point of no return.

        Does nothing when the destination runs the guest already, or when the guest was paused before the
        migration.
        """
        if self.destination_waits and self._was_running:
            await self._within(timeout, "the destination does not run the guest", self._run_destination())

    async def _run_destination(self) -> None:
        self._given = True
        try:
            await self.destination.execute("cont")
            await self.destination.wait_event(_named("RESUME"), since=self._destination_since)
        except MonitorLost as error:
            raise await self._lost_with_guest(error) from error
        except QemuRefused as error:
            self._given = False
            raise MigrationFailed(
                f"{self.destination.name} has the guest and does not run it: {error}",
                status="completed",
                place=GuestPlace.SOURCE_STOPPED,
            ) from error

    async def _lost_with_guest(self, error: MonitorLost) -> MigrationFailed:
        place = GuestPlace.IN_DOUBT
        if self.resumed_at is not None:
            place = GuestPlace.DESTINATION
        elif await self.destination.is_gone():
            place = GuestPlace.SOURCE_STOPPED
        return MigrationFailed(
            f"everything was sent to {self.destination.name}, then its monitor was lost ({error})",
            status="completed",
            place=place,
        )

    async def _arrive(self) -> None:
        ended = await self.source.wait_event(_status_in(_ENDED), since=self._source_since)
        if ended.migration_status != "completed":
            await self._raise_ended()
        try:
            arrived = await self.destination.wait_event(_arrival, since=self._destination_since)
        except MonitorLost as error:
            raise await self._lost_with_guest(error) from error
        if arrived.migration_status == "failed":
            raise MigrationFailed(
                f"{self.destination.name} could not load the guest",
                status="completed",
                place=GuestPlace.SOURCE_STOPPED,
            )
        if arrived.name != "RESUME" and self._was_running and not self.destination_waits:
            # RESUME comes before MIGRATION completed. Without RESUME, the destination was started with -S.
            # The source is in postmigrate, and does not run the guest by itself any more.
            await self._run_destination()

    async def cancel(self, timeout: float = _CANCEL_TIMEOUT) -> None:
        """Cancel the migration, and wait until the guest is on the source as before: running or paused.

        Call this after the reservations are back on the source. It does nothing when no migration is under
        way, so it may be called again. Raises MigrationFailed when the guest cannot be brought back safely;
        the error's `place` says where the guest is. Raises MonitorLost when the source has gone.
        """
        await self._within(timeout, "the source does not run the guest again", self._cancel())

    async def _cancel(self) -> None:
        if self.destination_waits and self._continued and not self._given:
            await self._end_destination()
        status = (await self.source.query_migrate()).status
        if status not in _NOT_UNDER_WAY:
            if not self._given:
                # The destination does not run the guest: the state of the guest's devices has not been
                # sent, or the destination has not been told to run the guest.
                await self.source.execute("migrate_cancel")
            ended = await self.source.wait_event(_status_in(_ENDED), since=self._source_since)
            status = ended.migration_status or status
        if not self._was_running:
            return
        if status == "completed":
            await self._require_destination_without_guest()
        # After `cancelled` and `failed`, QEMU 7.2 runs the guest by itself. After `completed` this code must
        # do it; it may, because no destination will run the guest.
        if await self._state_after_migration() != "running":
            await self.source.execute("cont")

    async def _end_destination(self) -> None:
        """End the destination's QEMU, which may have the whole guest and was not told to run it."""
        with contextlib.suppress(QemuError):
            await self.destination.execute("quit", timeout=_END_TIMEOUT)
        with contextlib.suppress(TimeoutError, MonitorLost):
            async with asyncio.timeout(_END_TIMEOUT):
                await self.destination.wait_event(lambda _: False)

    async def _state_after_migration(self) -> str:
        """The source's final run state, which QEMU sets a moment after the migration's status has ended.

        No event announces this moment. If `cont` came before it, QEMU would run the guest and then change the
        state of a running guest to `postmigrate`; QEMU calls abort() on that change.
        """
        while (state := await self.source.query_status()) == "finish-migrate":  # noqa: ASYNC110 - no event
            await asyncio.sleep(_STATE_INTERVAL)
        return state

    async def _require_destination_without_guest(self) -> None:
        """Return once the destination has failed to load the guest, or ended before it announced RESUME."""
        place = GuestPlace.DESTINATION
        if self.destination_waits and self.resumed_at is None:
            # The guest has arrived and the destination does not run it: RESUME would have come first.
            if await self.destination.is_gone():
                return
            place = GuestPlace.IN_DOUBT
        try:
            arrived = await self.destination.wait_event(_arrival, since=self._destination_since)
            if arrived.migration_status == "failed":
                return
        except MonitorLost:
            if await self.destination.is_gone():
                return
            place = GuestPlace.IN_DOUBT
        raise MigrationFailed("too late to cancel: everything was sent", status="completed", place=place)

    @property
    def stopped_at(self) -> QmpTime | None:
        """The time when the guest stopped on the source, by the source host's clock."""
        return _time_of("STOP", self.source.events[self._source_since :])

    @property
    def resumed_at(self) -> QmpTime | None:
        """The time when the destination began to run the guest, by the destination host's clock."""
        return _time_of("RESUME", self.destination.events[self._destination_since :])

    @property
    def standstill_ms(self) -> float | None:
        """How long the guest stood still, in ms; None before it has moved. Right only if the clocks agree."""
        if self.stopped_at is None or self.resumed_at is None:
            return None
        return self.resumed_at.milliseconds_since(self.stopped_at)

    async def _within(self, timeout: float, problem: str, step: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(timeout):
                return await step
        except TimeoutError:
            status = (await self.source.query_migrate()).status
            raise MigrationFailed(
                f"{problem} within {timeout:g} s (migration status {status})",
                status=status,
                place=self._place(status),
            ) from None

    def _place(self, status: str) -> GuestPlace:
        if self._given and status not in {"failed", "cancelled"}:
            return GuestPlace.IN_DOUBT
        stopped = status == "pre-switchover" or (self._continued and status not in {"failed", "cancelled"})
        return GuestPlace.SOURCE_STOPPED if stopped else GuestPlace.SOURCE

    async def _raise_ended(self) -> None:
        status = await self.source.query_migrate()
        reason = f": {status.error}" if status.error else ""
        raise MigrationFailed(
            f"{self.source.name} ended the migration as {status.status}{reason}",
            status=status.status,
            place=self._place(status.status),
        )

    @contextlib.asynccontextmanager
    async def _reporting(self) -> AsyncIterator[None]:
        """Report progress while the body runs. A monitor that fails here fails in the body too."""
        reports = asyncio.create_task(self._report())
        try:
            yield
        finally:
            reports.cancel()
            with contextlib.suppress(asyncio.CancelledError, QemuError):
                await reports

    async def _report(self) -> None:
        while True:
            await self._report_once()
            await asyncio.sleep(_PROGRESS_INTERVAL)

    async def _report_once(self) -> None:
        if self._on_progress is None:
            return
        ram = (await self.source.query_migrate()).ram
        if ram is not None:
            self._on_progress(ram)


async def _set_capabilities(monitor: QemuMonitor, *names: str) -> None:
    capabilities = [{"capability": name, "state": True} for name in names]
    await monitor.execute("migrate-set-capabilities", {"capabilities": capabilities})


def _named(name: str) -> Callable[[QmpEvent], bool]:
    return lambda event: event.name == name


def _status_in(statuses: frozenset[str]) -> Callable[[QmpEvent], bool]:
    return lambda event: event.migration_status in statuses


def _arrival(event: QmpEvent) -> bool:
    """Whether an event says that the destination has the guest, or that it will never have it."""
    return event.name == "RESUME" or event.migration_status in {"completed", "failed"}


def _time_of(name: str, events: tuple[QmpEvent, ...]) -> QmpTime | None:
    return next((event.time for event in events if event.name == name), None)
