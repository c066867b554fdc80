"""What the kernel says of a QEMU that libvirt asks about, as far as the lock server needs it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_COMMAND_LINE_BYTES = 1 << 20
_PASSES = b"scsi-block"
_INCOMING = b"\0-incoming\0"
_USERFAULTFD = "anon_inode:[userfaultfd]"


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """A QEMU.

    Attributes:
        passes: Whether a ``scsi-block`` is on its command line. True if the command line cannot be read.
        incoming: Whether it was started with ``-incoming``: for a migration, or from a saved state.
        post_copy: Whether it has a userfaultfd, as the destination of a post-copy migration has.
    """

    passes: bool
    incoming: bool
    post_copy: bool


def facts_of(pid: int, proc: Path = _PROC) -> QemuFacts:
    """The facts about a process."""
    try:
        with (proc / str(pid) / "cmdline").open("rb") as file:
            line = file.read(_COMMAND_LINE_BYTES)
    except OSError:
        return QemuFacts(passes=True, incoming=False, post_copy=False)
    passes = _PASSES in line or len(line) == _COMMAND_LINE_BYTES
    incoming = _INCOMING in line
    return QemuFacts(passes, incoming, passes and incoming and _has_userfaultfd(proc / str(pid) / "fd"))


def _has_userfaultfd(folder: Path) -> bool:
    try:
        return any(os.readlink(each) == _USERFAULTFD for each in folder.iterdir())
    except OSError:
        return False
