"""Thin provisioning: UNMAP, WRITE SAME, GET LBA STATUS (SBC-3 4.7).

A block is mapped if the file has storage for it; unmapped blocks read as zeros (LBPRZ=1). The file system
allocates and frees storage in its own blocks. So unmapping a part of such a block writes zeros to this part,
and leaves it mapped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdover.lun.commands.answers import GOOD, illegal, read_failure, write_failure
from holdover.lun.commands.block import Geometry, refuse_range
from holdover.lun.commands.work import MediumWork, Span
from holdover.lun.medium import Medium
from holdover.scsi.block import LbaStatus, LbaStatusDescriptor, Provisioning, UnmapList
from holdover.scsi.cdbs.cdb import GetLbaStatus, Unmap, WriteSame
from holdover.scsi.command import Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.sense import AdditionalSense
from holdover.scsi.status import Status

MAXIMUM_UNMAP_DESCRIPTORS = 4095
"""The most descriptors in a parameter list, whose length has 16 bits."""

_MOST_DESCRIPTORS = 256
_MOST_BLOCKS = 0xFFFFFFFF
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class UnmapRanges:
    """Free the storage of ranges; a range is its first byte and its length."""

    ranges: tuple[tuple[int, int], ...]
    fua: bool = False
    exclusive: ClassVar[bool] = False

    @property
    def span(self) -> Span:
        """From the first byte of all to the last."""
        return min(start for start, _ in self.ranges), max(start + length for start, length in self.ranges)

    @property
    def slow(self) -> bool:
        """True: the work belongs in a thread."""
        return True

    def run(self, medium: Medium) -> Response:
        """GOOD, or the reason why the work failed."""
        try:
            for offset, length in self.ranges:
                medium.unmap(offset, length)
            if self.fua:
                medium.flush()
        except OSError as error:
            return write_failure(error)
        return GOOD


@dataclass(frozen=True, slots=True)
class WriteSameBlocks:
    """Write one block repeatedly over a range. Offset and length are in bytes."""

    offset: int
    length: int
    block: bytes
    fua: bool = False
    exclusive: ClassVar[bool] = False

    @property
    def span(self) -> Span:
        """The blocks of the command, in bytes."""
        return self.offset, self.offset + self.length

    @property
    def slow(self) -> bool:
        """True: the work belongs in a thread."""
        return True

    def run(self, medium: Medium) -> Response:
        """GOOD, or the reason why the work failed."""
        piece = self.block * min(_CHUNK // len(self.block), self.length // len(self.block))
        try:
            for at in range(0, self.length, len(piece)):
                medium.write(self.offset + at, piece[: self.length - at])
            if self.fua:
                medium.flush()
        except OSError as error:
            return write_failure(error)
        return GOOD


@dataclass(frozen=True, slots=True)
class FindLbaStatus:
    """Find the provisioning status of the blocks from `lba` on, in a limited number of descriptors."""

    lba: int
    geometry: Geometry
    descriptors: int
    allocation_length: int
    exclusive: ClassVar[bool] = False

    @property
    def span(self) -> Span:
        """From the block to the last one."""
        return self.lba * self.geometry.block_length, self.geometry.blocks * self.geometry.block_length

    @property
    def slow(self) -> bool:
        """Whether the work belongs in a thread."""
        return self.descriptors > 16

    def run(self, medium: Medium) -> Response:
        """The descriptors, or MEDIUM ERROR."""
        found: list[LbaStatusDescriptor] = []
        at, end = self.lba, self.geometry.blocks
        try:
            while at < end and len(found) < self.descriptors:
                found.append(self._describe(medium, at))
                at += found[-1].blocks
        except OSError:
            return read_failure()
        return Response(Status.GOOD, LbaStatus(tuple(found)).encode()[: self.allocation_length])

    def _describe(self, medium: Medium, lba: int) -> LbaStatusDescriptor:
        length = self.geometry.block_length
        mapped, end = medium.extent(lba * length)
        # A block of which any byte is mapped is mapped.
        last = -(-end // length) if mapped else max(end // length, lba + 1)
        status = Provisioning.MAPPED if mapped or end < (lba + 1) * length else Provisioning.DEALLOCATED
        return LbaStatusDescriptor(lba, min(last - lba, _MOST_BLOCKS), status)


def unmap(cdb: Unmap, data_out: bytes, geometry: Geometry, through: bool = False) -> Response | MediumWork:
    """UNMAP (SBC-3 5.25). If a range is not on the medium, nothing is unmapped."""
    if cdb.anchor:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    if not cdb.parameter_list_length:
        return GOOD
    if len(data_out) < cdb.parameter_list_length:
        return illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    try:
        ranges = UnmapList.decode(data_out[: cdb.parameter_list_length]).ranges
    except DecodeError:
        return illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    if (
        len(ranges) > MAXIMUM_UNMAP_DESCRIPTORS
        or sum(blocks for _, blocks in ranges) > geometry.maximum_unmap
    ):
        return illegal(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    # A range of zero blocks may begin at the end of the medium.
    if any(lba + blocks > geometry.blocks for lba, blocks in ranges):
        return illegal(AdditionalSense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
    length = geometry.block_length
    wanted = tuple((lba * length, blocks * length) for lba, blocks in ranges if blocks)
    return UnmapRanges(wanted, through) if wanted else GOOD


def write_same(
    cdb: WriteSame, data_out: bytes, geometry: Geometry, through: bool = False
) -> Response | MediumWork:
    """WRITE SAME(10), (16) (SBC-3 5.42, 5.43).

    With UNMAP, and a block of only zeros, the blocks are unmapped, because they then read as zeros. Any other
    block is written. Zero blocks are refused (WSNZ=1), because they mean all blocks up to the last.
    """
    if cdb.protect or cdb.anchor or not cdb.blocks or cdb.blocks > geometry.maximum_write_same:
        # A range that is not on the medium is reported before the count that is not allowed.
        refusal = refuse_range(cdb.lba, 0, geometry) if not cdb.protect and not cdb.anchor else None
        return refusal or illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    refusal = refuse_range(cdb.lba, cdb.blocks, geometry)
    if refusal is not None:
        return refusal
    length = geometry.block_length
    block = bytes(length) if cdb.no_data_out else data_out[:length]
    if len(block) < length:
        return illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    if cdb.unmap and not any(block):
        return UnmapRanges(((cdb.lba * length, cdb.blocks * length),), through)
    return WriteSameBlocks(cdb.lba * length, cdb.blocks * length, block, through)


def get_lba_status(cdb: GetLbaStatus, geometry: Geometry) -> Response | MediumWork:
    """GET LBA STATUS (SBC-3 5.4)."""
    refusal = refuse_range(cdb.lba, 0, geometry)
    if refusal is not None:
        return refusal
    descriptors = min(max((cdb.allocation_length - 8) // 16, 1), _MOST_DESCRIPTORS)
    return FindLbaStatus(cdb.lba, geometry, descriptors, cdb.allocation_length)
