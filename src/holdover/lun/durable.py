"""Small files that are there whole or not at all, whenever the power fails."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["remove_file", "replace_file"]


def replace_file(path: Path, data: bytes) -> None:
    """Give a file this content, in one step and on stable storage when this returns.

    The content is written beside it as PATH.new first; a PATH.new that a crash left behind is overwritten.

    Raises:
        OSError: The system refuses. The file has its old content or, if only the last step failed, the new.
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
    """Remove a file if it is there, on stable storage when this returns.

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
