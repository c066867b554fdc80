"""A logical unit behind a SCSI device of this host, by the SG_IO ioctl.

The ioctl waits for the device, so it runs in threads and never on the event loop. Each command has a
duplicate of the descriptor for itself, closed when its thread is done with it: nobody who closes a
descriptor too early can make a command go to whatever is opened next under the same number.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import signal
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from holdover.paths.path import PathError
from holdover.paths.sgio_header import SG_IO, SgRequest, judge, judge_errno
from holdover.scsi.command import Command, Response

__all__ = ["SgIo", "SgioPath", "check_scsi_device"]

_SG_MAJOR = 21
_SD_MAJORS = frozenset({8, *range(65, 72), *range(128, 136)})
_DEFAULT_TIMEOUT = 20.0
_ARENA = 1 << 16


def check_scsi_device(descriptor: int, name: str) -> os.stat_result:
    """Look whether a descriptor is one that SG_IO may be tried on: the number means other things elsewhere.

    Raises:
        PathError: It is neither a block device nor a SCSI generic device, or it is a multipath device.
    """
    try:
        found = os.fstat(descriptor)
    except OSError as error:
        raise PathError(name, error.strerror or str(error)) from error
    _check(found, name)
    return found


def _check(found: os.stat_result, name: str) -> None:
    mode, major = found.st_mode, os.major(found.st_rdev)
    if stat.S_ISCHR(mode) and major == _SG_MAJOR:
        return
    if not stat.S_ISBLK(mode):
        raise PathError(name, "no SCSI device: neither a block device nor /dev/sgN")
    if major not in _SD_MAJORS and _is_multipath(found.st_rdev):
        # the kernel would send the command down one path of several: the others would stay unregistered
        raise PathError(
            name, "a device-mapper multipath device: its reservations need every path; name one, /dev/sdX"
        )


def _is_multipath(device: int) -> bool:
    uuid = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/dm/uuid")
    try:
        return uuid.read_text().startswith("mpath-")
    except OSError:
        return False


class SgIo:
    """Threads that run SG_IO: as many commands at once, and the rest in order behind them."""

    def __init__(self, threads: int = 64) -> None:
        """``threads`` start as they are needed."""
        self._pool = ThreadPoolExecutor(threads, "sgio", initializer=_block_signals)

    async def execute(
        self, descriptor: int, command: Command, name: str, timeout: float = _DEFAULT_TIMEOUT
    ) -> Response:
        """Carry out one command on an open device, which may be closed at any time meanwhile.

        ``timeout``, seconds, is the kernel's: it aborts the command then. Cancelling the task that waits
        here does not stop a command that has begun.

        Raises:
            PathError: The command was not sent.
            AnswerLost: It was sent and has no answer.
        """
        check_scsi_device(descriptor, name)
        try:
            own = os.dup(descriptor)
        except OSError as error:
            raise PathError(name, error.strerror or str(error)) from error
        try:
            job = self._pool.submit(_carry_out, own, command, name, timeout)
        except RuntimeError as error:
            os.close(own)
            raise PathError(name, "closed") from error
        # also when the job is cancelled before a thread has taken it up
        job.add_done_callback(lambda _: os.close(own))
        return await asyncio.wrap_future(job)

    def close(self) -> None:
        """Take no more commands; those under way end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _ThreadLocal(threading.local):
    """What each thread keeps from command to command: making shared memory takes longer than a command."""

    def __init__(self) -> None:
        self.arena = mmap.mmap(-1, _ARENA)


_own = _ThreadLocal()


def _block_signals() -> None:
    # the sg driver gives up waiting at a signal, and the answer is lost
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _carry_out(descriptor: int, command: Command, name: str, timeout: float) -> Response:
    try:
        request = SgRequest(command, timeout, _own.arena)
    except (OSError, ValueError) as error:
        raise PathError(name, str(error)) from error
    try:
        fcntl.ioctl(descriptor, SG_IO, request.header)
    except OSError as error:
        raise judge_errno(name, error.errno or 0) from error
    return judge(name, request.outcome())


class SgioPath:
    """A SCSI device of this host by its name: /dev/sdX, /dev/sgN or a link to one.

    Opened by the first command, and anew by the command after an error, as the name may then lead to
    another device. Names under /dev/disk/by-id lead to one logical unit always; /dev/sdX does not.
    """

    def __init__(self, device: Path, io: SgIo, timeout: float = _DEFAULT_TIMEOUT) -> None:
        """``timeout``: seconds for one command."""
        self._device = device
        self._io = io
        self._timeout = timeout
        self._descriptor: int | None = None
        self._opening = asyncio.Lock()

    @property
    def name(self) -> str:
        """The device's name as it was given."""
        return str(self._device)

    async def execute(self, command: Command) -> Response:
        """Carry out one command; unit attentions are the caller's to see.

        Raises:
            PathError: The device cannot be opened, or the command was not sent.
            AnswerLost: It was sent and has no answer.
        """
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = await self._open()
        try:
            return await self._io.execute(descriptor, command, self.name, self._timeout)
        except PathError:
            self._let_go(descriptor)
            raise

    async def close(self) -> None:
        """Close the device; commands under way have a descriptor of their own."""
        if self._descriptor is not None:
            self._let_go(self._descriptor)

    async def _open(self) -> int:
        async with self._opening:
            if self._descriptor is None:
                self._descriptor = await asyncio.to_thread(_open_device, self._device)
            return self._descriptor

    def _let_go(self, descriptor: int) -> None:
        # of several commands that fail together only the first closes what they shared
        if self._descriptor == descriptor:
            self._descriptor = None
            os.close(descriptor)


def _open_device(device: Path) -> int:
    """Open a device for SG_IO; it may wait for a device that does not answer.

    Raises:
        PathError: There is no such device, it is no SCSI device, or it must not be opened.
    """
    name = str(device)
    try:
        # before it is opened: opening is enough to start some devices
        _check(device.stat(), name)
        # for writing, as sg lets reservations through only then; not blocking, as sd waits for a medium
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise PathError(name, error.strerror or str(error)) from error
    try:
        check_scsi_device(descriptor, name)
    except PathError:
        os.close(descriptor)
        raise
    return descriptor
