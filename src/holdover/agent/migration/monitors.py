"""The monitors of guests' QEMUs on this host, found by the agent's configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from holdover.agent.attach.attached_guest import Attached
from holdover.config.agent_file import AgentConfig, monitor_of
from holdover.qemu.monitor import MonitorAbsent, QemuError, QemuMonitor

_CONNECT_SECONDS = 10.0


class NoMonitor(QemuError):
    """The configuration names no monitor for a guest; the message says what to add."""


class Monitors:
    """Connects to the monitors of guests' QEMUs."""

    def __init__(self, config: Callable[[], AgentConfig], attached: Callable[[str], Attached | None]) -> None:
        """``attached`` returns a guest that comes through the helper's socket."""
        self._config = config
        self._attached = attached

    def socket(self, guest: str) -> Path:
        """The socket of a guest's monitor.

        Raises:
            NoMonitor: The configuration names none.
            MonitorAbsent: It names one by a pattern, and no such socket is there.
        """
        config = self._config()
        attached = self._attached(guest)
        uuid = None if attached is None else attached.uuid
        pid = 0 if attached is None or attached.process is None else attached.process.pid
        found = monitor_of(config, guest, uuid, pid)
        if found is not None:
            return found
        if config.qmp is None:
            raise NoMonitor(
                f"{config.name} knows no monitor of guest {guest}'s QEMU; write [qmp] socket, or qmp in the "
                f"[[guest]], in the agent's file on {config.name}, and send it SIGHUP (qmp in a [[guest]] "
                "waits for a restart)"
            )
        raise MonitorAbsent(
            f"there is no monitor of guest {guest}'s QEMU on {config.name} at {config.qmp.socket}: QEMU does "
            "not run, or was started without that -qmp"
        )

    async def connect(self, guest: str) -> QemuMonitor:
        """Connect to the monitor of a guest's QEMU, which must be that guest's.

        Raises:
            MonitorAbsent: There is no QEMU.
            QemuError: The monitor cannot be asked, or is another guest's.
        """
        host = self._config().name
        monitor = await QemuMonitor.connect(self.socket(guest), f"QEMU on {host}", timeout=_CONNECT_SECONDS)
        try:
            name = await monitor.query_name()
            uuid = (await monitor.query_uuid()).lower()
        except BaseException:
            await monitor.close()
            raise
        if name is not None and guest not in (name, uuid):
            await monitor.close()
            raise QemuError(
                f"at {monitor.path} on {host} is guest {name}, not {guest}; correct qmp in the agent's file"
            )
        return monitor
