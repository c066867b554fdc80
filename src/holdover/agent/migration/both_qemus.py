"""The guest's QEMUs on both hosts, as the agent of the source reaches them: its own, and the other one by the
destination's agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdover.agent.migration.monitors import Monitors
from holdover.api.migration_documents import MigrationChange, QemuAction, QemuAnswer, QemuRequest
from holdover.api.peer_hosts import PeerClient
from holdover.migrate.migration import Migration, MigrationEvent
from holdover.migrate.phases import Happening
from holdover.qemu.monitor import MonitorAbsent, QemuError
from holdover.qemu.outgoing import OutgoingQemu, Stage, stage_of
from holdover.qemu.stream import StreamSettings


class BothQemus:
    """The two QEMUs of one migration."""

    def __init__(self, monitors: Monitors, peer: Callable[[], PeerClient]) -> None:
        """``peer`` returns the client of the destination's agent."""
        self._monitors = monitors
        self._peer = peer
        self._qemu: OutgoingQemu | None = None

    async def source(self, migration: Migration) -> OutgoingQemu:
        """The QEMU on the source; connects to it if no connection is open. Raises as `Monitors.connect`."""
        if self._qemu is None or self._qemu.monitor.lost:
            self._qemu = OutgoingQemu(await self._monitors.connect(migration.guest))
        return self._qemu

    async def ask(self, migration: Migration, action: QemuAction, *, wait: float = 0.0) -> QemuAnswer:
        """Ask the destination's agent about the QEMU there, which may take ``wait`` seconds.

        Raises:
            AgentError: It has not done what it was asked, or there is no answer.
        """
        return await self._peer().qemu(
            QemuRequest(
                guest=migration.guest,
                migration_id=migration.migration_id,
                action=action,
                options=migration.options,
                runs=migration.was_running,
                wait=wait,
            )
        )

    async def change(self, change: MigrationChange) -> None:
        """Change a copy that is under way.

        Raises:
            QemuError: QEMU refuses, or no copy is under way.
        """
        if self._qemu is None:
            raise QemuError("no copy of the memory is under way; nothing was changed")
        await self._qemu.change(StreamSettings(bandwidth=change.bandwidth, max_downtime=change.max_downtime))

    async def close(self) -> None:
        """Close the connection to QEMU; this changes nothing there."""
        if self._qemu is not None:
            await self._qemu.monitor.close()
            self._qemu = None

    async def source_gone(self, error: QemuError) -> MigrationEvent:
        """What a lost monitor of the source's QEMU means."""
        gone = isinstance(error, MonitorAbsent)
        if self._qemu is not None and self._qemu.monitor.lost:
            gone = gone or await self._qemu.monitor.is_gone()
        if gone:
            return MigrationEvent(Happening.GONE, f"{error}: QEMU has ended")
        return MigrationEvent(Happening.FAILED, str(error))

    async def ends_badly(self, migration: Migration) -> MigrationEvent:
        """Wait until the source's QEMU gives up; what has happened then.

        If it has sent everything, or has ended itself, the destination says whether it has the guest, and
        this waits for ever.
        """
        try:
            source = await self.source(migration)
            progress = await source.wait_sent(postcopy=True)
            ended = stage_of(progress.status) is Stage.ENDED
        except QemuError:
            ended = False
        if not ended:
            await asyncio.get_running_loop().create_future()
        reason = f": {progress.error_desc}" if progress.error_desc else ""
        return MigrationEvent(Happening.FAILED, f"QEMU ended the migration as {progress.status}{reason}")
