"""Block commands (SBC-3): this module checks them; the owner of the medium carries them out.

Each command becomes a refusal, or work on the medium.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from msgspec import structs

from holdover.lun.commands.answers import GOOD, illegal, miscompare, read_failure, write_failure, written
from holdover.lun.commands.work import INLINE_LIMIT, MediumWork, Span
from holdover.lun.medium import Medium
from holdover.scsi.cdbs.cdb import PreFetch, Read, SynchronizeCache, Verify, Write
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense
from holdover.scsi.status import Status

_BYTCHK_RESERVED, _BYTCHK_ONE_BLOCK = 2, 3


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of the medium.

    Attributes:
        blocks: The number of logical blocks.
        block_length: The bytes of one logical block.
        maximum_transfer: The most blocks that one command may transfer or verify (VPD page B0h); this limits
            the memory of one command.
        maximum_write_same: The most blocks that one WRITE SAME may write; this limits the time of one
            command.
        maximum_unmap: The most blocks that one UNMAP may unmap.
        maximum_compare_and_write: The most blocks that one COMPARE AND WRITE may compare, at most 255.
    """

    blocks: int
    block_length: int = 512
    maximum_transfer: int = 16384
    maximum_write_same: int = 0xFFFF
    maximum_unmap: int = 1 << 20
    maximum_compare_and_write: int = 255


@dataclass(frozen=True, slots=True)
class ReadBlocks:
    """Read a range, and with `fua` past the cache. Offset and length are in bytes."""

    offset: int
    length: int
    fua: bool = False
    exclusive: ClassVar[bool] = False

    @property
    def span(self) -> Span:
        """The blocks of the command, in bytes."""
        return self.offset, self.offset + self.length

    @property
    def slow(self) -> bool:
        """Whether the work belongs in a thread."""
        return self.fua or self.length > INLINE_LIMIT

    def run(self, medium: Medium) -> Response:
        """The blocks, or MEDIUM ERROR."""
        try:
            if self.fua:
                medium.flush()
            return Response(Status.GOOD, medium.read(self.offset, self.length))
        except OSError:
            return read_failure()


@dataclass(frozen=True, slots=True)
class WriteBlocks:
    """Write a range, with `fua` to stable storage. The offset is in bytes; `asked` as in `Delivered`."""

    offset: int
    data: bytes
    fua: bool = False
    asked: int | None = None
    exclusive: ClassVar[bool] = False

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
        try:
            medium.write(self.offset, self.data)
            if self.fua:
                medium.flush()
        except OSError as error:
            return write_failure(error)
        return written(self.asked)


@dataclass(frozen=True, slots=True)
class VerifyBlocks:
    """Read a range, and compare it with `data` unless `data` is None.

    The range is compared with all of `data`, or each block with a `data` of one block. Offset and length are
    in bytes.
    """

    offset: int
    length: int
    data: bytes | None = None
    exclusive: ClassVar[bool] = False

    @property
    def span(self) -> Span:
        """The blocks of the command, in bytes."""
        return self.offset, self.offset + self.length

    @property
    def slow(self) -> bool:
        """Whether the work belongs in a thread."""
        return self.length > INLINE_LIMIT

    def run(self, medium: Medium) -> Response:
        """GOOD, MISCOMPARE or MEDIUM ERROR."""
        try:
            found = medium.read(self.offset, self.length)
        except OSError:
            return read_failure()
        if self.data is None:
            return GOOD
        expected = self.data * (self.length // len(self.data))
        return GOOD if found == expected else miscompare(found, expected)


@dataclass(frozen=True, slots=True)
class Flush:
    """Put everything on stable storage."""

    exclusive: ClassVar[bool] = False

    @property
    def span(self) -> Span:
        """No blocks, because this work may run beside any other work."""
        return 0, 0

    @property
    def slow(self) -> bool:
        """True: the work belongs in a thread."""
        return True

    def run(self, medium: Medium) -> Response:
        """GOOD, or the reason why the work failed."""
        try:
            medium.flush()
        except OSError as error:
            return write_failure(error)
        return GOOD


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Ask the system to read a range into the cache. Offset and length are in bytes."""

    offset: int
    length: int
    exclusive: ClassVar[bool] = False

    @property
    def span(self) -> Span:
        """The blocks of the command, in bytes."""
        return self.offset, self.offset + self.length

    @property
    def slow(self) -> bool:
        """False: the work does not wait until the range is in the cache."""
        return False

    def run(self, medium: Medium) -> Response:
        """GOOD, which does not promise that all of the range is or stays in the cache (SBC-3 5.10)."""
        medium.prefetch(self.offset, self.length)
        return GOOD


def read(cdb: Read, geometry: Geometry) -> Response | MediumWork:
    """READ(6), (10), (12), (16) (SBC-3 5.11 to 5.14)."""
    refusal = refuse_range(cdb.lba, cdb.blocks, geometry) or refuse_transfer(
        cdb.protect, cdb.blocks, geometry
    )
    if refusal is not None:
        return refusal
    length = geometry.block_length
    return ReadBlocks(cdb.lba * length, cdb.blocks * length, cdb.fua) if cdb.blocks else GOOD


@dataclass(frozen=True, slots=True)
class Delivered:
    """The data that a write command writes.

    Attributes:
        data: Whole blocks.
        asked: The bytes that the CDB asks for, if another number of bytes came; otherwise None.
    """

    data: bytes
    asked: int | None = None


def deliver(data_out: bytes, blocks: int, geometry: Geometry) -> Delivered | Response:
    """The blocks that came, of the blocks that a CDB asks for; or a refusal.

    Bytes beyond the blocks of the CDB are ignored. Blocks that the initiator did not send are not written,
    and the residual tells the initiator so (RFC 7143 11.4.5.1). A part of a block is refused: then nothing is
    written.
    """
    length = blocks * geometry.block_length
    if len(data_out) == length:
        return Delivered(data_out)
    if len(data_out) > length:
        return Delivered(data_out[:length], length)
    if len(data_out) % geometry.block_length:
        refusal = illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
        return structs.replace(refusal, data_out_length=length)
    return Delivered(data_out, length)


def write(cdb: Write, data_out: bytes, geometry: Geometry, through: bool = False) -> Response | MediumWork:
    """WRITE(6), (10), (12), (16) (SBC-3 5.32 to 5.35); with `through` every write goes to stable storage."""
    refusal = refuse_range(cdb.lba, cdb.blocks, geometry) or refuse_transfer(
        cdb.protect, cdb.blocks, geometry
    )
    if refusal is not None:
        return refusal
    if not cdb.blocks:
        return GOOD
    found = deliver(data_out, cdb.blocks, geometry)
    if isinstance(found, Response):
        return found
    return WriteBlocks(cdb.lba * geometry.block_length, found.data, cdb.fua or through, found.asked)


def verify(cdb: Verify, data_out: bytes, geometry: Geometry) -> Response | MediumWork:
    """VERIFY(10), (12), (16) (SBC-3 5.27 to 5.29) with BYTCHK 00b, 01b and 11b."""
    if cdb.bytchk == _BYTCHK_RESERVED:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    refusal = refuse_range(cdb.lba, cdb.blocks, geometry) or refuse_transfer(
        cdb.protect, cdb.blocks, geometry
    )
    if refusal is not None:
        return refusal
    if not cdb.blocks:
        return GOOD
    offset, length = cdb.lba * geometry.block_length, cdb.blocks * geometry.block_length
    if not cdb.bytchk:
        return VerifyBlocks(offset, length)
    needed = geometry.block_length if cdb.bytchk == _BYTCHK_ONE_BLOCK else length
    if len(data_out) < needed:
        return illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    return VerifyBlocks(offset, length, data_out[:needed])


def synchronize_cache(cdb: SynchronizeCache, geometry: Geometry) -> Response | MediumWork:
    """SYNCHRONIZE CACHE(10), (16) (SBC-3 5.24, 5.25). Zero blocks mean all up to the last.

    The work flushes the whole cache, whatever the range. It flushes before the status even with IMMED, so
    that no error can come after the status.
    """
    return refuse_range(cdb.lba, cdb.blocks, geometry) or Flush()


def pre_fetch(cdb: PreFetch, geometry: Geometry) -> Response | MediumWork:
    """PRE-FETCH(10), (16) (SBC-3 5.10, 5.11). Zero blocks mean all up to the last."""
    refusal = refuse_range(cdb.lba, cdb.blocks, geometry)
    if refusal is not None:
        return refusal
    blocks = cdb.blocks or geometry.blocks - cdb.lba
    return Prefetch(cdb.lba * geometry.block_length, blocks * geometry.block_length)


def refuse_range(lba: int, blocks: int, geometry: Geometry) -> Response | None:
    """An ILLEGAL REQUEST if a range is not on the medium; None otherwise."""
    if lba >= geometry.blocks or lba + blocks > geometry.blocks:
        return illegal(AdditionalSense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
    return None


def refuse_transfer(protect: int, blocks: int, geometry: Geometry) -> Response | None:
    """An ILLEGAL REQUEST if a command transfers too many blocks, or asks for protection; None otherwise.

    A command asks for protection by RDPROTECT, WRPROTECT, VRPROTECT or ORPROTECT; the medium has no
    protection information.
    """
    if protect or blocks > geometry.maximum_transfer:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    return None
