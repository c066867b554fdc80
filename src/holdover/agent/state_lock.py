"""The lock on the agent's state folder: two agents that share it would spoil each other's records."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from holdover.config.agent_file import ConfigError

_FILE = "lock"
_MODE = 0o600
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a state folder; make the folder if it is not there.

    The kernel frees the lock when the process ends, however it ends. A folder that cannot be made, or that
    this process may not write to, is not locked: this process keeps no state there either.

    Raises:
        ConfigError: Another agent has the lock, or the lock's file cannot be opened.
    """
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not folder.is_dir():
        yield
        return
    try:
        descriptor = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise ConfigError(
                f"state-dir {folder}: {_FILE} cannot be opened: {error.strerror}; remove it if it is no "
                "file, or give the agent another folder: state-dir in its file, or --state-dir"
            ) from error
        yield
        return
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "of unknown id"
        raise ConfigError(
            f"state-dir {folder}: another agent, process {holder}, keeps its state there; end that agent, or "
            "give this one a folder of its own: state-dir in its file, or --state-dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
