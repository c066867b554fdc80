"""Holes in files: fallocate(2) with a mode, which Python's `os` does not offer."""

from __future__ import annotations

import ctypes
import os

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Make a range of a file read as zeros, and free the whole blocks of the file system in the range.

    Raises:
        OSError: The system refuses; EOPNOTSUPP where the file system has no holes.
    """
    if _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
