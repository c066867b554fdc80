"""SG_IO without the ioctl: lays out a command as the kernel expects it, and judges the result.

The layout is version 3 of the SCSI generic driver's interface, ``struct sg_io_hdr``.

Three layers report how a command ended, each in a field of its own: the logical unit (the SCSI status), the
host adapter's driver (the host status), and the SCSI mid-layer (the driver status). The SCSI status is an
answer only if the other two report nothing. In every other case the question is: was the command sent? This
table answers it:

=====================================  ================================================================
what came back                         what it means
=====================================  ================================================================
an errno of `NOT_SENT`                 not sent: the kernel refused before it made a request
any other errno                        in doubt: requests that are under way end with the same errnos
host status of `ANSWERED`              answered: the mid-layer's remark on a SCSI status that did come
any other host status                  in doubt: drivers end requests under way with every one of them,
                                       DID_NO_CONNECT when a port vanishes, DID_BAD_TARGET as well
driver status but "sense data"         in doubt
a SCSI status that does not exist      in doubt
=====================================  ================================================================

"In doubt" is always a safe result, because the caller then asks the logical unit. "Not sent" is the result
only if it is certain.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from dataclasses import dataclass
from enum import IntEnum

from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.status import Status

SG_IO = 0x2285
"""The number of the ioctl."""

MAX_CDB = 32
"""The greatest number of bytes of a CDB that the kernel accepts."""

_SENSE_LENGTH = 252  # SPC-4 4.5.1: sense data are never longer
_DRIVER_STATUS = 0x0F  # long ago, the upper half carried suggestions
_DRIVER_SENSE = 0x08


class Direction(IntEnum):
    """``dxfer_direction``: the direction of the data."""

    NONE = -1
    TO_DEVICE = -2
    FROM_DEVICE = -3


class HostStatus(IntEnum):
    """``host_status``: what the host adapter's driver reports."""

    OK = 0x00
    NO_CONNECT = 0x01
    BUS_BUSY = 0x02
    TIME_OUT = 0x03
    BAD_TARGET = 0x04
    ABORT = 0x05
    PARITY = 0x06
    ERROR = 0x07
    RESET = 0x08
    BAD_INTERRUPT = 0x09
    PASSTHROUGH = 0x0A
    SOFT_ERROR = 0x0B
    IMMEDIATE_RETRY = 0x0C
    REQUEUE = 0x0D
    TRANSPORT_DISRUPTED = 0x0E
    TRANSPORT_FAIL_FAST = 0x0F
    TARGET_FAILURE = 0x10
    NEXUS_FAILURE = 0x11
    ALLOCATION_FAILURE = 0x12
    MEDIUM_ERROR = 0x13
    TRANSPORT_MARGINAL = 0x14


# Linux before 6.0 set NEXUS_FAILURE with RESERVATION CONFLICT, and similar ones with CHECK CONDITION.
ANSWERED = frozenset(
    {
        HostStatus.OK,
        HostStatus.TARGET_FAILURE,
        HostStatus.NEXUS_FAILURE,
        HostStatus.ALLOCATION_FAILURE,
        HostStatus.MEDIUM_ERROR,
    }
)
"""Host statuses with which the SCSI status is the logical unit's answer. GOOD is an answer with OK only."""

NOT_SENT = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EBADF,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EINVAL,
        errno.EMSGSIZE,
        errno.ENOMEM,
        errno.EDOM,
        errno.EAGAIN,
    }
)
"""Errnos with which the kernel refuses before it makes a request. ENODEV, ENXIO, EIO, EFAULT and EINTR are
not among them, because they also end a request that was made. EDOM means that the sg driver's queue is
full."""


class SgHeader(ctypes.Structure):
    """``struct sg_io_hdr`` of ``<scsi/sg.h>``, with the names of its fields."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


@dataclass(frozen=True, slots=True)
class SgioResult:
    """What the ioctl has left in the header and in the buffers.

    Attributes:
        status: The SCSI status.
        host_status: A value of `HostStatus`, or a number that a newer kernel has added.
        driver_status: 0, or 8 for sense data.
        data: The Data-In buffer, as long as the transfer was; empty for any other direction.
        sense: The part of the sense data that was written.
    """

    status: int
    host_status: int = 0
    driver_status: int = 0
    data: bytes = b""
    sense: bytes = b""


def direction_of(command: Command) -> Direction:
    """The direction of the data of ``command``, by the buffer that it has.

    Raises:
        ValueError: The command has both buffers; version 3 of the interface cannot transfer in two
            directions.
    """
    if command.data_out:
        if command.data_in_length:
            raise ValueError("a command with data in both directions")
        return Direction.TO_DEVICE
    return Direction.FROM_DEVICE if command.data_in_length else Direction.NONE


class SgRequest:
    """`header` and the buffers to which it points, for one command after the other in one thread."""

    def __init__(self, arena: int = 1 << 16) -> None:
        """``arena``: bytes of shared memory for transfers. A longer transfer gets memory of its own.

        Raises:
            OSError: The system has no memory for it.
        """
        self._arena = _Memory(arena)
        self._data = self._arena
        self._cdb = ctypes.create_string_buffer(MAX_CDB)
        self._sense = ctypes.create_string_buffer(_SENSE_LENGTH)
        self.header = SgHeader(
            interface_id=ord("S"),
            mx_sb_len=_SENSE_LENGTH,
            cmdp=ctypes.addressof(self._cdb),
            sbp=ctypes.addressof(self._sense),
        )
        self._blank = bytes(self.header)

    def lay_out(self, command: Command, timeout: float) -> None:
        """Lay out a command in place of the last one. The kernel aborts it after ``timeout`` seconds.

        Raises:
            ValueError: The command has data in both directions, or a CDB that the kernel does not accept.
            OSError: The system has no memory for the transfer.
        """
        cdb, data_out, header = command.cdb, command.data_out, self.header
        if not 1 <= len(cdb) <= MAX_CDB:
            raise ValueError(f"a CDB of {len(cdb)} bytes; the kernel takes 1 to {MAX_CDB}")
        direction = direction_of(command)
        length = len(data_out) or command.data_in_length
        # this clears the result of the last command too
        ctypes.memmove(ctypes.addressof(header), self._blank, len(self._blank))
        ctypes.memmove(self._cdb, cdb, len(cdb))
        header.cmd_len = len(cdb)
        header.dxfer_direction = direction
        header.timeout = max(1, min(round(timeout * 1000), 0xFFFFFFFF))
        if length:
            self._data = self._arena if length <= self._arena.size else _Memory(length)
            # clear it: a device that reports no residual must not show the data of the last command
            self._data.memory[:length] = data_out if data_out else bytes(length)
            header.dxferp = self._data.address
            header.dxfer_len = length

    def result(self) -> SgioResult:
        """What the header and the buffers say after the ioctl."""
        header = self.header
        data = b""
        length = header.dxfer_len
        if length and header.dxfer_direction == Direction.FROM_DEVICE:
            # a residual longer than the buffer is a driver's mistake, and a negative one is an overrun
            data = self._data.memory[: min(max(length - header.resid, 0), length)]
        written = header.sb_len_wr
        return SgioResult(
            status=header.status,
            host_status=header.host_status,
            driver_status=header.driver_status,
            data=data,
            sense=self._sense.raw[:written] if written else b"",
        )


class _Memory:
    """Memory for a transfer, to which the kernel lets the device write without a copy.

    It is shared memory, because this process may fork during a transfer. After a fork, a page of other memory
    is copied on write. The device would then write to a page that this process has no more.
    """

    __slots__ = ("_buffer", "address", "memory", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = mmap.mmap(-1, size)
        self._buffer = (ctypes.c_char * size).from_buffer(self.memory)
        self.address = ctypes.addressof(self._buffer)


def judge(path: str, result: SgioResult) -> Response:
    """The logical unit's answer.

    Raises:
        AnswerLost: There is no answer; the command may have been carried out, or not.
    """
    if result.host_status not in ANSWERED:
        raise AnswerLost(path, f"host status {_host_status(result.host_status)}")
    if result.driver_status & _DRIVER_STATUS not in (0, _DRIVER_SENSE):
        raise AnswerLost(path, f"driver status {result.driver_status:02X}h")
    try:
        status = Status(result.status)
    except ValueError:
        raise AnswerLost(path, f"invalid SCSI status {result.status:02X}h") from None
    if result.host_status != HostStatus.OK and status is Status.GOOD:
        raise AnswerLost(path, f"host status {_host_status(result.host_status)}")
    # with an error, the residual is often 0, and the buffer is unchanged
    data = result.data if status in (Status.GOOD, Status.CONDITION_MET) else b""
    sense = result.sense if status is Status.CHECK_CONDITION else b""
    return Response(status, data, sense)


def judge_errno(path: str, number: int) -> PathError:
    """The error for an ioctl that failed: `AnswerLost`, unless it is certain that nothing was sent."""
    kind = PathError if number in NOT_SENT else AnswerLost
    return kind(path, f"SG_IO: {_EXPLAINED.get(number, os.strerror(number))}")


_EXPLAINED = {
    errno.EPERM: "Operation not permitted (CAP_SYS_RAWIO is needed)",
    errno.ENOTTY: "the device takes no SCSI commands",
}


def _host_status(number: int) -> str:
    try:
        return f"{HostStatus(number).name.replace('_', ' ')} ({number:02X}h)"
    except ValueError:
        return f"{number:02X}h"
