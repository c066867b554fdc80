"""Small files that exist whole or not at all, whenever the power fails."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of a file in one step. When this returns, the content is on stable storage.

    This writes the content to PATH.new first; it overwrites a PATH.new that a crash has left.

    Raises:
        OSError: The system refuses. The file has its old content; if only the last step failed, it has the
            new content.
    """
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, memoryview(data)[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(beside, path)
    _sync_folder(path)


def remove_file(path: Path) -> None:
    """Remove a file if it exists. When this returns, the removal is on stable storage.

    Raises:
        OSError: The system refuses.
    """
    path.unlink(missing_ok=True)
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
