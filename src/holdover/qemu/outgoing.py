"""The QEMU that gives a guest away, up to the moment in which the guest stands still, and back.

`holdover.qemu.migration` says what QEMU does in which order, and what can end a migration early. With this
module the destination's QEMU never runs the guest by itself, so `cancel` is safe as long as nobody has told
it to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from holdover.qemu.monitor import QemuError, QemuMonitor, QemuRefused, QmpEvent, QmpTime
from holdover.qemu.stream import Side, StreamSettings, set_up_stream

_INTERVAL = 0.01
_MIGRATES = frozenset({"running", "paused"})
_BEFORE = frozenset({"setup", "active", "wait-unplug"})
_AFTER = frozenset({"device", "completed", "postcopy-active", "postcopy-device", "postcopy-paused"})
_UNDER_WAY = _BEFORE | {"pre-switchover", "cancelling"} | (_AFTER - {"completed"})


_CHANGES = frozenset({"max-bandwidth", "downtime-limit"})
"""The parameters of the source that hold until somebody changes them, whatever becomes of the migration."""

_CANCEL_SECONDS = 30.0
"""How long a cancelled migration may take to end; QEMU needs a moment."""


class Stage(StrEnum):
    """How far a migration is, by QEMU's status of it."""

    NONE = "none"
    COPYING = "copying"
    STOPPED = "stopped"
    SENDING = "sending"
    SENT = "sent"
    ENDED = "ended"


def stage_of(status: str) -> Stage:
    """The stage that a migration status belongs to."""
    if status == "none":
        return Stage.NONE
    if status in _BEFORE:
        return Stage.COPYING
    if status == "pre-switchover":
        return Stage.STOPPED
    if status == "completed":
        return Stage.SENT
    return Stage.SENDING if status in _AFTER else Stage.ENDED


class _Ram(msgspec.Struct, frozen=True, rename="kebab"):
    transferred: int = 0
    remaining: int = 0
    total: int = 0
    mbps: float = 0.0
    dirty_pages_rate: int = 0
    dirty_sync_count: int = 0
    page_size: int = 4096


class CopyProgress(msgspec.Struct, frozen=True, rename="kebab"):
    """The answer to query-migrate: the status, and how far the copy of the memory is."""

    status: str = "none"
    error_desc: str = ""
    ram: _Ram | None = None
    expected_downtime: int = 0


class OutgoingQemu:
    """One QEMU that gives a guest away."""

    def __init__(self, monitor: QemuMonitor) -> None:
        self.monitor = monitor
        self._since = len(monitor.events)
        self._before: dict[str, object] = {}
        """The parameters before the migration, as far as it changes them."""

    async def check(self) -> bool:
        """Check that a migration can begin; returns whether the guest runs. Changes nothing.

        Raises:
            QemuError: It has no guest to migrate, or migrates already.
        """
        under_way = (await self.progress()).status
        if under_way in _UNDER_WAY:
            raise QemuError(f"{self.monitor.name} is migrating already ({under_way})")
        state = await self.monitor.query_status()
        if state not in _MIGRATES:
            raise QemuError(f"{self.monitor.name} has no guest to migrate: its state is {state}")
        return state == "running"

    async def progress(self) -> CopyProgress:
        """How far it is."""
        answer = await self.monitor.execute("query-migrate")
        try:
            return msgspec.convert(answer, CopyProgress)
        except msgspec.ValidationError as error:
            problem = f"{self.monitor.name}: its answer to query-migrate is not valid: {error}"
            raise QemuError(problem) from error

    async def has_guest(self) -> bool:
        """Whether "completed" is not about a migration from here: this QEMU has the guest.

        A guest that came by a migration leaves that status in the QEMU to which it came.
        """
        if (await self.progress()).status != "completed":
            return False
        return await self._settled_state() != "postmigrate"

    async def start(self, uri: str, settings: StreamSettings) -> None:
        """Begin to copy the memory, while the guest runs."""
        await self._remember()
        await set_up_stream(self.monitor, settings, Side.SOURCE)
        self._since = len(self.monitor.events)
        await self.monitor.execute("migrate", {"uri": uri})

    async def wait_stopped(self) -> CopyProgress:
        """Wait until the guest stands still and none of its commands is on its way to a disk, or until the
        migration has ended without that."""
        return await self._until(lambda stage: stage not in (Stage.NONE, Stage.COPYING))

    async def wait_sent(self, *, postcopy: bool) -> CopyProgress:
        """Wait until everything was sent, or will be while the guest runs elsewhere, or the migration has
        ended."""
        enough = (Stage.SENT, Stage.ENDED, *((Stage.SENDING,) if postcopy else ()))
        events = self.monitor.events[self._since :]
        told = next((each.migration_status for each in reversed(events) if _is_migration(each)), None)
        if told is not None and stage_of(told) in enough and stage_of(told) is not Stage.ENDED:
            return CopyProgress(status=told)  # no question: QEMU has enough to do
        return await self._until(lambda stage: stage in enough)

    async def wait_fetched(self) -> CopyProgress:
        """With postcopy: wait until all memory has been sent, or the stream has broken off."""
        return await self._until(
            lambda stage: stage in (Stage.SENT, Stage.ENDED), lambda status: status == "postcopy-paused"
        )

    async def _until(
        self, reached: Callable[[Stage], bool], broken: Callable[[str], bool] = lambda _: False
    ) -> CopyProgress:
        while True:
            seen = len(self.monitor.events)
            progress = await self.progress()
            if reached(stage_of(progress.status)) or broken(progress.status):
                return progress
            event = await self.monitor.wait_event(_is_migration, since=seen)
            status = event.migration_status or ""
            if stage_of(status) is Stage.STOPPED and reached(Stage.STOPPED):
                return CopyProgress(status=status)  # the guest stands still: there is no time for a question

    async def switch_over(self) -> None:
        """Let it send the rest; does nothing if it does so already."""
        try:
            await self.monitor.execute("migrate-continue", {"state": "pre-switchover"})
        except QemuRefused:
            if stage_of((await self.progress()).status) is Stage.STOPPED:
                raise

    async def start_postcopy(self) -> None:
        """Stop the guest now, to go on elsewhere before all memory has been sent."""
        await self.monitor.execute("migrate-start-postcopy")

    async def stop_guest(self) -> None:
        """Stop the guest, so that the copy of its memory comes to an end."""
        await self.monitor.execute("stop")

    async def change(self, settings: StreamSettings) -> None:
        """Change bandwidth and downtime of a migration that is under way."""
        wanted = settings.parameters(Side.SOURCE)
        changed = {name: value for name, value in wanted.items() if name in _CHANGES}
        if changed:
            await self.monitor.execute("migrate-set-parameters", changed)

    async def cancel(self, *, runs: bool) -> None:
        """End the migration; the guest is then here as before, running if ``runs``. May be repeated.

        Call this only if the destination does not run the guest and never will.

        Raises:
            QemuError: QEMU refuses, or its migration has not ended in 30 s.
        """
        status = (await self.progress()).status
        if status in _UNDER_WAY:
            await self.monitor.execute("migrate_cancel")
            try:
                async with asyncio.timeout(_CANCEL_SECONDS):
                    await self._until(lambda stage: stage in (Stage.NONE, Stage.ENDED, Stage.SENT))
            except TimeoutError as error:
                raise self._takes_too_long("its migration was cancelled and has not ended") from error
        if runs and await self._settled_state() != "running":
            await self.monitor.execute("cont")
        with contextlib.suppress(QemuError):  # the guest is here and runs: that is what counts
            await self._restore()

    async def _remember(self) -> None:
        """Keep the parameters that a migration changes. A QEMU that does not tell them keeps what is set."""
        with contextlib.suppress(QemuError):
            now = await self.monitor.execute("query-migrate-parameters")
            if isinstance(now, Mapping):
                self._before = {name: now[name] for name in sorted(_CHANGES) if name in now}

    async def _restore(self) -> None:
        """Set them as they were: the next migration must not have the limits of this one."""
        if self._before:
            await self.monitor.execute("migrate-set-parameters", self._before)
            self._before = {}

    def _takes_too_long(self, what: str) -> QemuError:
        return QemuError(f"{self.monitor.name}: {what} within {_CANCEL_SECONDS:g} s")

    async def _settled_state(self) -> str:
        """The run state after a migration, which QEMU sets a moment after the status. No event announces it.

        QEMU calls abort() if `cont` comes before that.

        Raises:
            QemuError: It has not set the state in 30 s.
        """
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                while (state := await self.monitor.query_status()) == "finish-migrate":  # noqa: ASYNC110
                    await asyncio.sleep(_INTERVAL)  # no event says it
        except TimeoutError as error:
            raise self._takes_too_long("its migration has ended and its guest has no run state") from error
        return state

    @property
    def stopped_at(self) -> QmpTime | None:
        """The time of the last STOP since the migration began, by the clock of this host."""
        events = self.monitor.events[self._since :]
        return next((each.time for each in reversed(events) if each.name == "STOP"), None)


def _is_migration(event: QmpEvent) -> bool:
    return event.name == "MIGRATION"
