"""A logical unit behind a SCSI device of this host, by the SG_IO ioctl.

The ioctl waits for the device, so it runs in threads and never on an event loop: `carry_out` in the thread
that calls it, `SgIo` in threads of its own. There each command has a duplicate of the descriptor for itself,
closed when its thread is done with it: nobody who closes a descriptor too early can make a command go to
whatever is opened next under the same number.

A unit attention is an answer like any other here, and nothing is sent twice. Whoever sends a command for
a purpose of its own knows whether it may be repeated; a guest's own command must show the guest what its I_T
nexus has to be told (SAM-5 5.14).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import stat
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from holdover.paths.multipath import carry_out_multipath, nexuses_of
from holdover.paths.multipath_map import is_multipath, multipath_below
from holdover.paths.path import PathError
from holdover.paths.sgio_header import SG_IO, SgRequest, judge, judge_errno
from holdover.paths.turns import Turns
from holdover.scsi.command import Command, Response

__all__ = ["OpenDevice", "SgIo", "SgioPath", "block_signals", "carry_out", "check_scsi_device"]

_SG_MAJOR = 21
_SD_MAJORS = frozenset({8, *range(65, 72), *range(128, 136)})
_DEFAULT_TIMEOUT = 20.0
_THREADS = 1 << 12
_TURNS = 32
"""Commands under way on one device."""


@dataclass(slots=True)
class OpenDevice:
    """A descriptor, and what fstat(2) says of it; whether it is a SCSI device at all is `carry_out`'s to see.

    Attributes:
        descriptor: It belongs to whoever made this.
        found: Type and device number.
    """

    descriptor: int
    found: os.stat_result

    @property
    def number(self) -> tuple[int, int]:
        """What tells one device from another: the kind of file and the device number."""
        return stat.S_IFMT(self.found.st_mode), self.found.st_rdev

    @classmethod
    def of(cls, descriptor: int, name: str) -> OpenDevice:
        """A descriptor that SG_IO may be tried on; it waits where fstat(2) does. Raises as `check`."""
        return cls(descriptor, check_scsi_device(descriptor, name))

    def check(self, name: str) -> None:
        """Look whether it is one that SG_IO may be tried on. Raises as `check_scsi_device`."""
        _check(self.found, name)

    @property
    def is_disk(self) -> bool:
        """Whether it is a disk of the kernel's sd driver: one LUN by one I_T nexus."""
        return stat.S_ISBLK(self.found.st_mode) and os.major(self.found.st_rdev) in _SD_MAJORS


def check_scsi_device(descriptor: int, name: str) -> os.stat_result:
    """Look whether a descriptor is one that SG_IO may be tried on: the number means other things elsewhere.

    Raises:
        PathError: It is neither a block device nor a SCSI generic device, or lies on a multipath device.
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
    below = multipath_below(found.st_rdev) if major not in _SD_MAJORS else None
    if below is not None:
        # the kernel would send the command down one path of it
        raise PathError(name, f"it lies on the multipath device /dev/{below}; name that")


def _is_multipath(found: os.stat_result) -> bool:
    return (
        os.major(found.st_rdev) not in _SD_MAJORS
        and stat.S_ISBLK(found.st_mode)
        and is_multipath(found.st_rdev)
    )


@dataclass(slots=True)
class _Job:
    """A command on its way to a thread; the device's descriptor is the job's own."""

    device: OpenDevice
    command: Command
    name: str
    timeout: float
    answer: Future[Response] = field(default_factory=Future)


class SgIo:
    """Threads that run SG_IO: for each device so many commands at once, and the rest in order behind them.

    A device that hangs holds up nobody but those who want it.
    """

    def __init__(self, turns: int = _TURNS) -> None:
        """``turns``: how many commands at once for one device. Threads start as they are needed."""
        self._turns: Turns[_Job] = Turns(turns)
        self._pool = ThreadPoolExecutor(_THREADS, "sgio", initializer=block_signals)
        self._closed = False

    async def execute(
        self, device: int | OpenDevice, command: Command, name: str, timeout: float = _DEFAULT_TIMEOUT
    ) -> Response:
        """Carry out one command on an open device, which may be closed at any time meanwhile; of one that a
        client has sent it must be known what fstat(2) says: here that would be asked in the loop.

        ``timeout``, seconds, is the kernel's: it aborts the command then. Cancelling the task that waits
        here does not stop a command that has begun.

        Raises:
            PathError: The command was not sent.
            AnswerLost: It was sent and has no answer.
        """
        opened = OpenDevice.of(device, name) if isinstance(device, int) else device
        opened.check(name)
        if self._closed:
            raise PathError(name, "closed")
        try:
            own = OpenDevice(os.dup(opened.descriptor), opened.found)
        except OSError as error:
            raise PathError(name, error.strerror or str(error)) from error
        job = _Job(own, command, name, timeout)
        if self._turns.begin(own.number, job):
            self._pool.submit(self._run, job)
        return await asyncio.wrap_future(job.answer)

    def close(self) -> None:
        """Take no more commands, and give up those that wait; those under way end by themselves."""
        self._closed = True
        self._pool.shutdown(wait=False)

    def _run(self, job: _Job | None) -> None:
        """Carry out a job that has its turn, and those that get it after that."""
        while job is not None:
            self._finish(job)
            job = self._turns.end(job.device.number)

    def _finish(self, job: _Job) -> None:
        # false when whoever waited for it was cancelled
        wanted = job.answer.set_running_or_notify_cancel()
        try:
            try:
                if self._closed:
                    raise PathError(job.name, "closed")
                response = carry_out(job.device, job.command, job.name, job.timeout) if wanted else None
            finally:
                # before it is answered: whoever has the answer finds nothing of the command left
                os.close(job.device.descriptor)
        except Exception as error:
            if wanted:
                job.answer.set_exception(error)
        else:
            if response is not None:
                job.answer.set_result(response)


class _ThreadLocal(threading.local):
    """What each thread keeps from command to command: making shared memory takes longer than a command."""

    def __init__(self) -> None:
        self.request = SgRequest()


_own = _ThreadLocal()


def block_signals() -> None:
    """For a thread that is to call `carry_out`: sg gives up waiting at a signal, and the answer is lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def carry_out(device: OpenDevice, command: Command, name: str, timeout: float) -> Response:
    """Carry out one command, while the calling thread waits; ``timeout`` in seconds is the kernel's.

    Raises:
        PathError: The command was not sent.
        AnswerLost: It was sent and has no answer.
    """
    _check(device.found, name)
    if _is_multipath(device.found):

        def send(descriptor: int, each: Command, path: str) -> Response:
            return carry_out(OpenDevice(descriptor, os.fstat(descriptor)), each, path, timeout)

        # the kernel would send it down one path of several: the others would stay unregistered
        return carry_out_multipath(device.found.st_rdev, command, send)
    try:
        request = _own.request
        request.lay_out(command, timeout)
    except (OSError, ValueError) as error:
        raise PathError(name, str(error)) from error
    try:
        fcntl.ioctl(device.descriptor, SG_IO, request.header)
    except OSError as error:
        raise judge_errno(name, error.errno or 0) from error
    return judge(name, request.outcome())


class SgioPath:
    """A SCSI device of this host by its name: /dev/sdX, /dev/sgN, /dev/mapper/mpathX or a link to one.

    Opened by the first command, and anew by the command after an error, as the name may then lead to
    another device. Names under /dev/disk/by-id lead to one logical unit always; /dev/sdX does not.
    """

    def __init__(self, device: Path, io: SgIo, timeout: float = _DEFAULT_TIMEOUT) -> None:
        """``timeout``: seconds for one command."""
        self._device = device
        self._io = io
        self._timeout = timeout
        self._descriptor: int | None = None
        self._number: tuple[int, int] | None = None
        self._opening = asyncio.Lock()

    @property
    def name(self) -> str:
        """The device's name as it was given."""
        return str(self._device)

    @property
    def nexuses(self) -> int:
        """As many as a multipath device has paths, else 1."""
        return nexuses_of(self._device)

    def has_open(self, number: tuple[int, int]) -> bool:
        """Whether it has the device of this number (`OpenDevice.number`) open now. For any thread."""
        # a descriptor is there only after its number
        return self._descriptor is not None and self._number == number

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
                opened = await asyncio.to_thread(_open_device, self._device)
                self._number = opened.number
                self._descriptor = opened.descriptor
            return self._descriptor

    def _let_go(self, descriptor: int) -> None:
        # of several commands that fail together only the first closes what they shared
        if self._descriptor == descriptor:
            self._descriptor = None
            os.close(descriptor)


def _open_device(device: Path) -> OpenDevice:
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
        return OpenDevice.of(descriptor, name)
    except PathError:
        os.close(descriptor)
        raise
