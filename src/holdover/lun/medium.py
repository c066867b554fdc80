"""The medium, which has the blocks, as the logical unit sees it; and a sparse file as a medium."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

from holdover.lun._holes import punch_hole
from holdover.lun.errors import MediumError

_ZEROS = 1 << 20


class Medium(Protocol):
    """Bytes that can be read and written at any offset. Ranges lie within `size`; errors are `OSError`."""

    @property
    def size(self) -> int:
        """The size in bytes, a multiple of the block length."""
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
        """Make a range read as zeros, and free its storage; this may stay in a cache until `flush`."""
        ...

    def extent(self, offset: int) -> tuple[bool, int]:
        """Whether a byte has storage, and the first byte after it of which the opposite holds, or `size`."""
        ...

    def prefetch(self, offset: int, length: int) -> None:
        """Announce that a range will be read soon. Never raises."""
        ...


class FileMedium:
    """A sparse file. No other `FileMedium`, in this process or another, can open it at the same time.

    Several threads may call the methods at once, because each call gives its offset.
    """

    def __init__(self, path: Path, size: int | None, *, read_only: bool = False) -> None:
        """Open the file, or create it with the given size.

        Args:
            path: The path of the file.
            size: The size in bytes; None takes the size that the file has.
            read_only: Whether to open the file only for reading; a missing file is then not created.

        Raises:
            MediumError: The file does not exist and there is no size; or the file has another size, or a size
                that is not a multiple of 512; or it is in use; or the system refuses to open or create it.
        """
        if read_only and not path.exists():
            raise MediumError(f"{path} does not exist, and a read-only file is not created: create it first")
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
        # A file is empty when a crash came before it got its size, or when `touch` created it.
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
            OSError: The system cannot read them; EIO when another program has cut the file.
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
            OSError: The system cannot write all of them; a part may have been written.
        """
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def flush(self) -> None:
        """Return when everything written is on stable storage.

        Raises:
            OSError: The system cannot put it there.
        """
        os.fdatasync(self._descriptor)

    def unmap(self, offset: int, length: int) -> None:
        """Make a range read as zeros, and free its storage if the file system supports this.

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
            OSError: The system does not report this.
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
        """Close the file, which releases the lock. Every later call fails with EBADF."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
