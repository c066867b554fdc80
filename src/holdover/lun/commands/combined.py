"""Block commands that read and write in one step: COMPARE AND WRITE, ORWRITE, WRITE AND VERIFY (SBC-3).

Their work is exclusive: every other command sees all of the work done, or none of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdover.lun.commands.answers import GOOD, illegal, miscompare, read_failure, write_failure, written
from holdover.lun.commands.block import Geometry, deliver, refuse_range, refuse_transfer
from holdover.lun.commands.work import INLINE_LIMIT, MediumWork, Span
from holdover.lun.medium import Medium
from holdover.scsi.cdbs.cdb import CompareAndWrite, OrWrite, WriteAndVerify
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense


@dataclass(frozen=True, slots=True)
class CompareAndWriteBlocks:
    """Write `data` if the medium has `expected` there, which has the same length. The offset is in bytes."""

    offset: int
    expected: bytes
    data: bytes
    fua: bool = False
    exclusive: ClassVar[bool] = True

    @property
    def span(self) -> Span:
        """The blocks of the command, in bytes."""
        return self.offset, self.offset + len(self.data)

    @property
    def slow(self) -> bool:
        """Whether the work belongs in a thread."""
        return self.fua

    def run(self, medium: Medium) -> Response:
        """GOOD, MISCOMPARE, or the reason why the work failed."""
        try:
            found = medium.read(self.offset, len(self.expected))
        except OSError:
            return read_failure()
        if found != self.expected:
            return miscompare(found, self.expected)
        return _write(medium, self.offset, self.data, self.fua)


@dataclass(frozen=True, slots=True)
class OrBlocks:
    """Set the bits of `data` in a range of the medium. The offset is in bytes."""

    offset: int
    data: bytes
    fua: bool = False
    exclusive: ClassVar[bool] = True

    @property
    def span(self) -> Span:
        """The blocks of the command, in bytes."""
        return self.offset, self.offset + len(self.data)

    @property
    def slow(self) -> bool:
        """Whether the work belongs in a thread."""
        return self.fua or len(self.data) > INLINE_LIMIT

    def run(self, medium: Medium) -> Response:
        """GOOD, or the reason why the work failed."""
        length = len(self.data)
        try:
            found = medium.read(self.offset, length)
        except OSError:
            return read_failure()
        bits = int.from_bytes(found, "big") | int.from_bytes(self.data, "big")
        return _write(medium, self.offset, bits.to_bytes(length, "big"), self.fua)


@dataclass(frozen=True, slots=True)
class WriteAndVerifyBlocks:
    """Write to stable storage and read back; with `compare` also compare.

    The offset is in bytes; `asked` is as in `block.Delivered`.
    """

    offset: int
    data: bytes
    compare: bool = False
    asked: int | None = None
    exclusive: ClassVar[bool] = True

    @property
    def span(self) -> Span:
        """The blocks of the command, in bytes."""
        return self.offset, self.offset + len(self.data)

    @property
    def slow(self) -> bool:
        """True: the work belongs in a thread."""
        return True

    def run(self, medium: Medium) -> Response:
        """GOOD, MISCOMPARE, or the reason why the work failed."""
        done = _write(medium, self.offset, self.data, fua=True)
        if not done.good:
            return done
        try:
            found = medium.read(self.offset, len(self.data))
        except OSError:
            return read_failure()
        if self.compare and found != self.data:
            return miscompare(found, self.data)
        return written(self.asked)


def _write(medium: Medium, offset: int, data: bytes, fua: bool) -> Response:
    try:
        medium.write(offset, data)
        if fua:
            medium.flush()
    except OSError as error:
        return write_failure(error)
    return GOOD


def compare_and_write(
    cdb: CompareAndWrite, data_out: bytes, geometry: Geometry, through: bool = False
) -> Response | MediumWork:
    """COMPARE AND WRITE (SBC-3 5.2).

    The Data-Out buffer has the data to compare and then the data to write. If the buffer has another length
    than the CDB says, the CDB is refused: it is not known where the second half begins, and the CDB writes
    256 blocks as 0.
    """
    if cdb.protect or cdb.blocks > geometry.maximum_compare_and_write:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    refusal = refuse_range(cdb.lba, cdb.blocks, geometry)
    if refusal is not None:
        return refusal
    length = cdb.blocks * geometry.block_length
    if len(data_out) != 2 * length:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    if not length:
        return GOOD
    offset = cdb.lba * geometry.block_length
    return CompareAndWriteBlocks(offset, data_out[:length], data_out[length:], cdb.fua or through)


def or_write(
    cdb: OrWrite, data_out: bytes, geometry: Geometry, through: bool = False
) -> Response | MediumWork:
    """ORWRITE(16) (SBC-3 5.9)."""
    refusal = refuse_range(cdb.lba, cdb.blocks, geometry) or refuse_transfer(
        cdb.protect, cdb.blocks, geometry
    )
    if refusal is not None:
        return refusal
    length = cdb.blocks * geometry.block_length
    if len(data_out) < length:
        return illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    if not length:
        return GOOD
    return OrBlocks(cdb.lba * geometry.block_length, data_out[:length], cdb.fua or through)


def write_and_verify(cdb: WriteAndVerify, data_out: bytes, geometry: Geometry) -> Response | MediumWork:
    """WRITE AND VERIFY(10), (12), (16) (SBC-3 5.36 to 5.38) with BYTCHK 00b and 01b."""
    if cdb.bytchk > 1:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    refusal = refuse_range(cdb.lba, cdb.blocks, geometry) or refuse_transfer(
        cdb.protect, cdb.blocks, geometry
    )
    if refusal is not None:
        return refusal
    found = deliver(data_out, cdb.blocks, geometry) if cdb.blocks else GOOD
    if isinstance(found, Response):
        return found
    return WriteAndVerifyBlocks(cdb.lba * geometry.block_length, found.data, cdb.bytchk == 1, found.asked)
