"""Block commands: checked here, carried out by whoever has the medium (SBC-3).

Each command becomes a refusal or a piece of work on the medium. The work decides nothing: it may run in
the event loop or in a thread, and its `run` turns the medium's errors into sense data.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Protocol

from holdover.lun.medium import Medium
from holdover.scsi.cdb import Read, SynchronizeCache, Verify, Write
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

__all__ = [
    "Flush",
    "Geometry",
    "MediumWork",
    "ReadBlocks",
    "VerifyBlocks",
    "WriteBlocks",
    "read",
    "synchronize_cache",
    "verify",
    "write",
]

_GOOD = Response(Status.GOOD)
_INLINE_LIMIT = 256 * 1024  # bytes that a page cache copies in less time than a thread needs to wake up


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of the medium.

    Attributes:
        blocks: Number of logical blocks.
        block_length: Bytes of one.
        maximum_transfer: Blocks that one command may transfer or verify (VPD page B0h); it bounds the
            memory of one command.
    """

    blocks: int
    block_length: int = 512
    maximum_transfer: int = 16384


class MediumWork(Protocol):
    """What is left to do on the medium when a command has been found right."""

    @property
    def slow(self) -> bool:
        """Whether it may wait for a disk or copy a lot, and so belongs in a thread."""
        ...

    def run(self, medium: Medium) -> Response:
        """Do it. Never raises for what a medium does."""
        ...


@dataclass(frozen=True, slots=True)
class ReadBlocks:
    """Read a range, past the cache with `fua`. Offset and length in bytes."""

    offset: int
    length: int
    fua: bool = False

    @property
    def slow(self) -> bool:
        """Whether it belongs in a thread."""
        return self.fua or self.length > _INLINE_LIMIT

    def run(self, medium: Medium) -> Response:
        """The blocks, or MEDIUM ERROR."""
        try:
            if self.fua:
                medium.flush()
            return Response(Status.GOOD, medium.read(self.offset, self.length))
        except OSError:
            return check_condition(SenseKey.MEDIUM_ERROR, AdditionalSense.UNRECOVERED_READ_ERROR)


@dataclass(frozen=True, slots=True)
class WriteBlocks:
    """Write a range, to stable storage with `fua`. Offset in bytes."""

    offset: int
    data: bytes
    fua: bool = False

    @property
    def slow(self) -> bool:
        """Whether it belongs in a thread."""
        return self.fua or len(self.data) > _INLINE_LIMIT

    def run(self, medium: Medium) -> Response:
        """GOOD, or why not."""
        try:
            medium.write(self.offset, self.data)
            if self.fua:
                medium.flush()
        except OSError as error:
            return _write_failure(error)
        return _GOOD


@dataclass(frozen=True, slots=True)
class VerifyBlocks:
    """Read a range back, and compare it with `data` unless that is None. Offset and length in bytes."""

    offset: int
    length: int
    data: bytes | None = None

    @property
    def slow(self) -> bool:
        """Whether it belongs in a thread."""
        return self.length > _INLINE_LIMIT

    def run(self, medium: Medium) -> Response:
        """GOOD, MISCOMPARE or MEDIUM ERROR."""
        try:
            found = medium.read(self.offset, self.length)
        except OSError:
            return check_condition(SenseKey.MEDIUM_ERROR, AdditionalSense.UNRECOVERED_READ_ERROR)
        if self.data is not None and found != self.data:
            return check_condition(SenseKey.MISCOMPARE, AdditionalSense.MISCOMPARE_DURING_VERIFY_OPERATION)
        return _GOOD


@dataclass(frozen=True, slots=True)
class Flush:
    """Put everything on stable storage."""

    @property
    def slow(self) -> bool:
        """It belongs in a thread."""
        return True

    def run(self, medium: Medium) -> Response:
        """GOOD, or why not."""
        try:
            medium.flush()
        except OSError as error:
            return _write_failure(error)
        return _GOOD


def read(cdb: Read, geometry: Geometry) -> Response | MediumWork:
    """READ(6), (10), (12), (16) (SBC-3 5.11 to 5.14)."""
    refusal = _refuse_range(cdb.lba, cdb.blocks, geometry) or _refuse_transfer(cdb, geometry)
    if refusal is not None:
        return refusal
    length = geometry.block_length
    return ReadBlocks(cdb.lba * length, cdb.blocks * length, cdb.fua) if cdb.blocks else _GOOD


def write(cdb: Write, data_out: bytes, geometry: Geometry) -> Response | MediumWork:
    """WRITE(6), (10), (12), (16) (SBC-3 5.32 to 5.35). With less data than the CDB names nothing is
    written; what is more is left aside."""
    refusal = _refuse_range(cdb.lba, cdb.blocks, geometry) or _refuse_transfer(cdb, geometry)
    if refusal is not None:
        return refusal
    if not cdb.blocks:
        return _GOOD
    length = cdb.blocks * geometry.block_length
    if len(data_out) < length:
        return _illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    data = data_out if len(data_out) == length else data_out[:length]
    return WriteBlocks(cdb.lba * geometry.block_length, data, cdb.fua)


def verify(cdb: Verify, data_out: bytes, geometry: Geometry) -> Response | MediumWork:
    """VERIFY(10), (12), (16) (SBC-3 5.27 to 5.29) with BYTCHK 00b and 01b."""
    if cdb.bytchk > 1:
        return _illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    refusal = _refuse_range(cdb.lba, cdb.blocks, geometry) or _refuse_transfer(cdb, geometry)
    if refusal is not None:
        return refusal
    if not cdb.blocks:
        return _GOOD
    offset, length = cdb.lba * geometry.block_length, cdb.blocks * geometry.block_length
    if not cdb.bytchk:
        return VerifyBlocks(offset, length)
    if len(data_out) < length:
        return _illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    return VerifyBlocks(offset, length, data_out[:length])


def synchronize_cache(cdb: SynchronizeCache, geometry: Geometry) -> Response | MediumWork:
    """SYNCHRONIZE CACHE(10), (16) (SBC-3 5.24, 5.25). Zero blocks mean all up to the last. The whole cache
    is flushed whatever the range, and before the status even with IMMED: then there is no error left to
    report later."""
    return _refuse_range(cdb.lba, cdb.blocks, geometry) or Flush()


def _refuse_range(lba: int, blocks: int, geometry: Geometry) -> Response | None:
    if lba >= geometry.blocks or lba + blocks > geometry.blocks:
        return _illegal(AdditionalSense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
    return None


def _refuse_transfer(cdb: Read | Write | Verify, geometry: Geometry) -> Response | None:
    """There is no protection information, so RDPROTECT, WRPROTECT and VRPROTECT must be 0."""
    if cdb.protect or cdb.blocks > geometry.maximum_transfer:
        return _illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    return None


def _illegal(additional: AdditionalSense) -> Response:
    return check_condition(SenseKey.ILLEGAL_REQUEST, additional)


def _write_failure(error: OSError) -> Response:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return check_condition(SenseKey.DATA_PROTECT, AdditionalSense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT)
    return check_condition(SenseKey.MEDIUM_ERROR, AdditionalSense.WRITE_ERROR)
