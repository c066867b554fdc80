"""A logical unit behind a SCSI device of this host, by the SG_IO ioctl.

The ioctl waits for the device. So it runs in threads and never on an event loop: `carry_out` runs it in the
calling thread, `SgIo` in threads of its own. In `SgIo`, each command has its own duplicate of the descriptor.
The command's thread closes it at the end. So if a descriptor is closed too early, a command cannot go to
another file that got the same number.

Here, a unit attention is a response like any other, and no command is sent twice. A caller that sends a
command for its own purpose knows whether that command may be repeated. A command of the guest must show the
guest what its I_T nexus has to be told (SAM-5 5.14).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import stat
import threading
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from holdover.paths.block_device import SD_MAJORS, problem_of_block
from holdover.paths.device_queue import Turns
from holdover.paths.multipath import carry_out_multipath, nexuses_of
from holdover.paths.multipath_map import is_multipath
from holdover.paths.sgio_header import SG_IO, SgRequest, judge, judge_errno
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.path import PathError

log = structlog.get_logger()

_SG_MAJOR = 21
_DEFAULT_TIMEOUT = 20.0
_THREADS = 1 << 12
_TURNS = 32
"""The greatest number of commands under way on one device."""
_SHARE = 16
"""How many of these commands may be of one client."""


@dataclass(slots=True)
class OpenDevice:
    """A descriptor, and what fstat(2) says of it. `carry_out` checks whether it is a SCSI device.

    Attributes:
        descriptor: The descriptor; it belongs to whoever made this object.
        found: The result of fstat(2), with the type and the device number.
    """

    descriptor: int
    found: os.stat_result

    @property
    def number(self) -> tuple[int, int]:
        """The identity of the device: the kind of file and the device number."""
        return stat.S_IFMT(self.found.st_mode), self.found.st_rdev

    @classmethod
    def of(cls, descriptor: int, name: str) -> OpenDevice:
        """An open device on which SG_IO may be tried. It may wait, as fstat(2) may. Raises as `check`."""
        return cls(descriptor, check_scsi_device(descriptor, name))

    def check(self, name: str) -> None:
        """Check that SG_IO may be tried on this device. Raises as `check_scsi_device`."""
        _check(self.found, name)

    @property
    def access(self) -> int:
        """What the owner of the descriptor may do with it: O_RDONLY, O_WRONLY or O_RDWR."""
        return fcntl.fcntl(self.descriptor, fcntl.F_GETFL) & os.O_ACCMODE

    @property
    def is_disk(self) -> bool:
        """Whether the device is a disk of the kernel's sd driver: one LUN by one I_T nexus."""
        return stat.S_ISBLK(self.found.st_mode) and os.major(self.found.st_rdev) in SD_MAJORS


def check_scsi_device(descriptor: int, name: str) -> os.stat_result:
    """Check that SG_IO may be tried on a descriptor: on other files, the ioctl's number has other meanings.

    Raises:
        PathError: It is neither a block device nor a SCSI generic device, or it is a part of a disk: a
            partition, or a device-mapper device other than multipath.
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
    problem = problem_of_block(found.st_rdev)
    if problem is not None:
        raise PathError(name, problem)


def _is_multipath(found: os.stat_result) -> bool:
    return (
        os.major(found.st_rdev) not in SD_MAJORS
        and stat.S_ISBLK(found.st_mode)
        and is_multipath(found.st_rdev)
    )


@dataclass(slots=True)
class _QueuedCommand:
    """A command that waits for a thread; the job owns its descriptor of the device."""

    device: OpenDevice
    client: Hashable
    command: Command
    name: str
    timeout: float
    answer: Future[Response] = field(default_factory=Future)


class SgIo:
    """Threads that run SG_IO. Each device has a limit of commands at once; other commands wait for a turn.

    A device that hangs delays only the clients that want that device.
    """

    def __init__(self, turns: int = _TURNS, share: int = _SHARE) -> None:
        """``turns``: the greatest number of commands at once on one device. ``share``: how many of them may
        be of one client. Threads start when they are needed."""
        self._turns: Turns[_QueuedCommand] = Turns(turns, share)
        self._pool = ThreadPoolExecutor(_THREADS, "sgio", initializer=block_signals)
        self._closed = False

    async def execute(
        self,
        device: int | OpenDevice,
        command: Command,
        name: str,
        timeout: float = _DEFAULT_TIMEOUT,
        client: Hashable = None,
    ) -> Response:
        """Carry out one command on an open device. The caller may close the device at any time meanwhile.

        If a client has sent the descriptor, give an `OpenDevice`, for which fstat(2) was called already. For
        a number, this method calls fstat(2) in the event loop, and fstat(2) may wait. The kernel aborts the
        command after ``timeout`` seconds. Cancelling the task that waits here does not stop a command that
        has begun. ``client`` is the client for which the command runs: turns are fair between clients.

        Raises:
            PathError: The command was not sent.
            AnswerLost: The command was sent and has no answer.
        """
        opened = OpenDevice.of(device, name) if isinstance(device, int) else device
        opened.check(name)
        if self._closed:
            raise PathError(name, "closed")
        try:
            own = OpenDevice(os.dup(opened.descriptor), opened.found)
        except OSError as error:
            raise PathError(name, error.strerror or str(error)) from error
        job = _QueuedCommand(own, client, command, name, timeout)
        if self._turns.begin(own.number, client, job):
            try:
                self._pool.submit(self._run, job)
            except RuntimeError as error:
                # the pool keeps work for which it cannot start a thread, until one of its threads is free
                log.error("The system has no more threads for a moment.", reason=str(error))
        return await asyncio.wrap_future(job.answer)

    def close(self) -> None:
        """Accept no more commands, and drop those that wait. Commands under way end by themselves."""
        self._closed = True
        self._pool.shutdown(wait=False)

    def _run(self, job: _QueuedCommand | None) -> None:
        """Carry out a job that has its turn, and then the jobs that get the turn after it."""
        while job is not None:
            self._finish(job)
            job = self._turns.end(job.device.number, job.client)

    def _finish(self, job: _QueuedCommand) -> None:
        # false if the task that waited for the answer was cancelled
        wanted = job.answer.set_running_or_notify_cancel()
        try:
            try:
                if self._closed:
                    raise PathError(job.name, "closed")
                response = carry_out(job.device, job.command, job.name, job.timeout) if wanted else None
            finally:
                # before the answer: when a caller has the answer, nothing of the command is left
                os.close(job.device.descriptor)
        except Exception as error:
            if wanted:
                job.answer.set_exception(error)
        else:
            if response is not None:
                job.answer.set_result(response)


class _ThreadLocal(threading.local):
    """What each thread keeps between commands: making shared memory takes longer than a command."""

    def __init__(self) -> None:
        self.request = SgRequest()


_own = _ThreadLocal()


def block_signals() -> None:
    """Block signals in a thread that calls `carry_out`: at a signal, sg stops waiting, the answer is lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def carry_out(device: OpenDevice, command: Command, name: str, timeout: float) -> Response:
    """Carry out one command while the calling thread waits. The kernel aborts it after ``timeout`` seconds.

    Raises:
        PathError: The command was not sent.
        AnswerLost: The command was sent and has no answer.
    """
    _check(device.found, name)
    if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT and device.access == os.O_RDONLY:
        # the kernel would allow it, because this process has the capability
        raise PathError(
            name, "the device is open only for reading; to change reservations, open it for writing"
        )
    if _is_multipath(device.found):

        def send(descriptor: int, each: Command, path: str) -> Response:
            return carry_out(OpenDevice(descriptor, os.fstat(descriptor)), each, path, timeout)

        # the kernel would send it down one of several paths, and the other paths would stay unregistered
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
    return judge(name, request.result())


class SgioPath:
    """A SCSI device of this host, by its name: /dev/sdX, /dev/sgN, /dev/mapper/mpathX or a link to one.

    The first command opens the device. After an error, the next command opens it again, because the name may
    lead to another device then. Names under /dev/disk/by-id always lead to the same logical unit; /dev/sdX
    does not.
    """

    def __init__(self, device: Path, io: SgIo, timeout: float = _DEFAULT_TIMEOUT) -> None:
        """``timeout``: the seconds for one command."""
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
        """How many I_T nexuses the device has: the paths of a multipath device, else 1."""
        return nexuses_of(self._device)

    def has_open(self, number: tuple[int, int]) -> bool:
        """Whether the device with this number (`OpenDevice.number`) is open here now. Any thread may ask."""
        # the descriptor is set only after the number
        return self._descriptor is not None and self._number == number

    async def execute(self, command: Command) -> Response:
        """Carry out one command. The caller gets unit attentions as responses.

        Raises:
            PathError: The device cannot be opened, or the command was not sent.
            AnswerLost: The command was sent and has no answer.
        """
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = await self._open()
        try:
            return await self._io.execute(descriptor, command, self.name, self._timeout, client=self)
        except PathError:
            self._let_go(descriptor)
            raise

    async def close(self) -> None:
        """Close the device. Commands under way have descriptors of their own."""
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
        # if several commands fail together, only the first closes the descriptor that they shared
        if self._descriptor == descriptor:
            self._descriptor = None
            os.close(descriptor)


def _open_device(device: Path) -> OpenDevice:
    """Open a device for SG_IO. This may wait for a device that does not answer.

    Raises:
        PathError: There is no such device, it is not a SCSI device, or it must not be opened.
    """
    name = str(device)
    try:
        # check before opening: some devices start when they are opened
        _check(device.stat(), name)
        # for writing, because sg allows reservations only then; non-blocking, because sd waits for a medium
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise PathError(name, error.strerror or str(error)) from error
    try:
        return OpenDevice.of(descriptor, name)
    except PathError:
        os.close(descriptor)
        raise
