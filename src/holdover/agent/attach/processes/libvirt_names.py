"""The QEMUs that libvirt has named at the lock socket: for which guest it has started which process."""

from __future__ import annotations

from dataclasses import replace

from holdover.agent.attach.processes.process import Process
from holdover.agent.attach.processes.process_identity import QemuIdentity


class LibvirtNames:
    """The names by process.

    Only libvirtd's user may ask at the lock socket, so a name from there is better proof than a command line.
    """

    def __init__(self) -> None:
        self._names: dict[int, tuple[float, str, str]] = {}

    def name(self, process: Process, guest: str, uuid: str) -> None:
        """libvirt has named a process."""
        self._names[process.pid] = process.started, guest, uuid

    def forget(self, process: Process) -> None:
        """The process has ended."""
        if self.has(process):
            del self._names[process.pid]

    def has(self, process: Process | None) -> bool:
        """Whether libvirt has named a process, and not an earlier one of the same number."""
        return process is not None and self._names.get(process.pid, (None,))[0] == process.started

    def corrected(self, process: Process | None, said: QemuIdentity) -> QemuIdentity:
        """What a process says of its guest, with libvirt's name and UUID if libvirt has named it."""
        if process is None or not self.has(process):
            return said
        _, guest, uuid = self._names[process.pid]
        return replace(said, name=guest, uuid=uuid)
