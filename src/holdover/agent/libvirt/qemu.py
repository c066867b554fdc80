"""The QEMUs of libvirt's guests on this host, as the kernel shows them. libvirt is never asked."""

from __future__ import annotations

import os
from pathlib import Path

from holdover.agent.attach.processes.process_identity import NotIdentified, QemuIdentity, identify_process

_PROC = Path("/proc")


def is_incoming(pid: int) -> bool:
    """Whether a QEMU was started for a migration."""
    found = _identity(pid)
    return found is not None and found.incoming


def runs_somewhere(name: str, uuid: str) -> bool:
    """Whether some process of this host is a QEMU of the guest, by its command line."""
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal() or not _is_qemu(entry):
            continue
        found = _identity(int(entry.name))
        if found is not None and (found.uuid == uuid if uuid and found.uuid else found.name == name):
            return True
    return False


def _is_qemu(process: Path) -> bool:
    try:
        program = Path(os.readlink(process / "exe")).name
    except OSError:
        return False
    return "qemu" in program or "kvm" in program


def _identity(pid: int) -> QemuIdentity | None:
    try:
        return identify_process(pid)
    except NotIdentified:
        return None
