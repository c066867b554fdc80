"""The options with which a QEMU of this host was started: the command line of the process at its monitor.

QMP does not report whether a QEMU that waits for a guest will run the guest by itself; `-S` on the command
line does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def started_with(monitor: Path, option: str, proc: Path = Path("/proc")) -> bool | None:
    """Whether the process that listens at a monitor's socket was started with an option, such as "-S".

    None when this is not known, because this process can see no such process.
    """
    inodes = set(_listening(monitor, proc))
    found = [_has_option(process, option) for process in _processes(proc) if _has_open(process, inodes)]
    known = [each for each in found if each is not None]
    # The process that made the socket for QEMU may have it open too, and does not have the option.
    return any(known) if known else None


def _listening(socket: Path, proc: Path) -> Iterator[str]:
    """The inodes of the sockets that listen at this path."""
    try:
        lines = (proc / "net" / "unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except OSError:
        return
    wanted = {str(socket), str(socket.absolute()), str(socket.resolve())}
    for line in lines:
        # The columns: Num RefCount Protocol Flags Type St Inode Path. Flag 10000 means that it listens.
        words = line.split(maxsplit=7)
        if len(words) == 8 and words[7] in wanted and int(words[3], 16) & 0x10000:
            yield words[6]


def _processes(proc: Path) -> Iterator[Path]:
    try:
        yield from (each for each in proc.iterdir() if each.name.isdecimal())
    except OSError:
        return


def _has_open(process: Path, inodes: set[str]) -> bool:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        return any(str(each.readlink()) in wanted for each in (process / "fd").iterdir())
    except OSError:
        return False  # the process has ended, or this process may not read about it


def _has_option(process: Path, option: str) -> bool | None:
    try:
        arguments = (process / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
    except OSError:
        return None
    # QEMU takes each option with one dash or with two.
    return option in arguments[1:] or f"-{option}" in arguments[1:]
