"""FILE.mark: which process has a journal open, and the last transaction that the journal acknowledged.

Where a write-ahead log is missing, cut off or damaged, SQLite takes it for a log that ends there, and says
nothing. The mark shows the loss: a journal whose last transaction is older than the mark's has lost
acknowledged transactions. The mark is written after each transaction is on disk, and the mark itself is not
synced. So after a power failure the mark may be older than the journal, but never newer.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from holdover.journal._errors import JournalDamaged, JournalError

_FLOCK = "hhqqi"
"""struct flock: l_type, l_whence, l_start, l_len, l_pid."""
_LINE = "holdover journal {} acknowledged {:020d} pid {:010d} "
_LENGTH = len(_LINE.format("0" * 32, 0, 0)) + 17


@dataclass(frozen=True, slots=True)
class Mark:
    """The journal's identity (16 bytes), its last acknowledged transaction, and the process that wrote it."""

    identity: bytes
    sequence: int
    pid: int


def mark_path(file: Path) -> Path:
    """The path of a journal's mark."""
    return file.with_name(file.name + ".mark")


def sync_folder(path: Path) -> None:
    """Sync the folder of a file, so that the creation or the removal of the file is durable."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_mark(file: Path) -> Mark | None:
    """The mark of a journal, or None when the journal has no mark. Changes nothing.

    Raises:
        JournalDamaged: The mark differs from what was written.
        OSError: The mark cannot be read.
    """
    try:
        descriptor = os.open(mark_path(file), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _decode(file, descriptor)
    finally:
        os.close(descriptor)


def opener_of(file: Path) -> int | None:
    """The number of the process that has a journal open; 0 when its number is not known, None for no process.

    Raises:
        OSError: The mark cannot be read.
    """
    try:
        descriptor = os.open(mark_path(file), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0]
        return None if kind == fcntl.F_UNLCK else _pid(file, descriptor)
    finally:
        os.close(descriptor)


def _pid(file: Path, descriptor: int) -> int:
    try:
        mark = _decode(file, descriptor)
    except JournalDamaged:
        return 0
    return mark.pid if mark is not None else 0


class MarkFile:
    """The mark of a journal that this process has open, and the lock that keeps other processes out."""

    def __init__(self, file: Path) -> None:
        """Take the lock. Creates an empty FILE.mark when there is none.

        Raises:
            JournalError: Another process, or another Journal of this one, has the file open.
            OSError: The mark cannot be opened.
        """
        self._file = file
        path = mark_path(file)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _lock(self) -> None:
        wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            # An open file description lock does not belong to the process: the kernel refuses a second
            # Journal of this process too, and close() of another descriptor does not drop the lock.
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, wanted)
        except (BlockingIOError, PermissionError):
            pid = _pid(self._file, self._descriptor)
            whose = f"process {pid}" if pid else "another process"
            raise JournalError(
                self._file, f"{whose} has it open", "end that agent, or give this agent another journal"
            ) from None

    def read(self) -> Mark | None:
        """The mark; None when the journal has acknowledged nothing yet.

        Raises:
            JournalDamaged: The mark differs from what was written.
            OSError: The mark cannot be read.
        """
        return _decode(self._file, self._descriptor)

    def write(self, identity: bytes, sequence: int, *, sync: bool = False) -> None:
        """Write the last acknowledged transaction, ``sequence``, to the mark.

        Raises:
            OSError: The system refuses.
        """
        line = _LINE.format(identity.hex(), sequence, os.getpid()).encode()
        os.pwrite(self._descriptor, line + _check(line) + b"\n", 0)
        if sync:
            os.fsync(self._descriptor)
            sync_folder(self._file)

    def close(self) -> None:
        """Close the mark, and so release the lock."""
        os.close(self._descriptor)


def _check(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=8).hexdigest().encode()


def _decode(file: Path, descriptor: int) -> Mark | None:
    data = os.pread(descriptor, _LENGTH + 1, 0)
    if not data:
        return None
    line, check = data[: _LENGTH - 17], data[_LENGTH - 17 :]
    if check != _check(line) + b"\n":
        remedy = f"if you know that {file} is whole and the newest copy, remove {mark_path(file)}"
        raise JournalDamaged(file, f"its mark {mark_path(file)} is damaged", remedy)
    words = line.split()
    return Mark(bytes.fromhex(words[2].decode()), int(words[4]), int(words[6]))
