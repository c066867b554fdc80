"""Where the blocks are: the medium as the logical unit sees it, and a sparse file as one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

from holdover.lun._holes import punch_hole
from holdover.lun.errors import MediumError

__all__ = ["FileMedium", "Medium"]

_ZEROS = 1 << 20


class Medium(Protocol):
    """Bytes that can be read and written at any offset. Ranges lie within `size`; errors of the store
    below are `OSError`."""

    @property
    def size(self) -> int:
        """Bytes, a multiple of the block length."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`; it may stay in a cache until `flush`."""
        ...

    def flush(self) -> None:
        """Return when everything written is on stable storage."""
        ...

    def unmap(self, offset: int, length: int) -> None:
        """Make a range read as zeros, and give up storage for it; as for `write`, until `flush` that may
        stay in a cache."""
        ...

    def extent(self, offset: int) -> tuple[bool, int]:
        """Whether a byte has storage, and the first byte after it of which the opposite holds, or `size`."""
        ...

    def prefetch(self, offset: int, length: int) -> None:
        """A range will be read soon. Never raises."""
        ...


class FileMedium:
    """A sparse file, locked against every other opener of this kind, in this process or another.

    Its methods may run in several threads at once: each names its offset.
    """

    def __init__(self, path: Path, size: int | None, *, read_only: bool = False) -> None:
        """Open the file, or create it with the size given.

        Args:
            path: The file.
            size: Bytes; None takes the size that the file has.
            read_only: Whether to open it for reading alone; it is not created then.

        Raises:
            MediumError: There is no such file and no size, the size is another or no multiple of 512, it
                is in use, or the system refuses to open or create it.
        """
        if read_only and not path.exists():
            raise MediumError(f"{path} does not exist, and is not created to be read alone")
        if size is None and not path.exists():
            raise MediumError(f"{path} does not exist: give its size to create it")
        if path.exists() and not path.is_file():
            raise MediumError(f"{path} is not a regular file")
        try:
            flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
            self._descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MediumError(f"{path} cannot be opened: {error.strerror}") from error
        try:
            self._lock(path)
            self._size = self._settle_size(path, size)
        except BaseException:
            self.close()
            raise

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MediumError(f"{path} is in use: another logical unit has it open") from error

    def _settle_size(self, path: Path, size: int | None) -> int:
        found = os.fstat(self._descriptor).st_size
        # An empty file is one that a crash kept from getting its size, or that `touch` made.
        if found == 0 and size is not None:
            try:
                os.ftruncate(self._descriptor, size)
            except OSError as error:
                raise MediumError(f"{path} cannot get {size} bytes: {error.strerror}") from error
            return size
        if size is not None and size != found:
            raise MediumError(f"{path} has {found} bytes, but a size of {size} bytes was asked for")
        if found == 0 or found % 512:
            raise MediumError(f"{path} has {found} bytes, which is not a multiple of 512 above 0")
        return found

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes.

        Raises:
            OSError: The system does not give them; EIO where the file was cut short behind our back.
        """
        data = os.pread(self._descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self._descriptor, length - len(data), offset + len(data))
            if not more:
                raise OSError(errno.EIO, f"the file ends before byte {offset + length}")
            data += more
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data` into the system's cache.

        Raises:
            OSError: The system does not take them; a part may have been written.
        """
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def flush(self) -> None:
        """Return when everything written is on stable storage.

        Raises:
            OSError: It cannot be put there.
        """
        os.fdatasync(self._descriptor)

    def unmap(self, offset: int, length: int) -> None:
        """Make a range read as zeros, and give up storage for it where the file system can.

        Raises:
            OSError: The system refuses; a part may read as zeros.
        """
        try:
            punch_hole(self._descriptor, offset, length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            for at in range(offset, offset + length, _ZEROS):
                self.write(at, bytes(min(_ZEROS, offset + length - at)))

    def extent(self, offset: int) -> tuple[bool, int]:
        """Whether a byte has storage, and the first byte after it of which the opposite holds, or `size`.

        Raises:
            OSError: The system does not say.
        """
        try:
            data = os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False, self._size
        if data > offset:
            return False, min(data, self._size)
        return True, min(os.lseek(self._descriptor, offset, os.SEEK_HOLE), self._size)

    def prefetch(self, offset: int, length: int) -> None:
        """Tell the system that a range will be read soon."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the file, which gives up the lock. Whatever is asked afterwards fails with EBADF."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
