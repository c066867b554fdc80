"""EXTENDED COPY(LID1) and RECEIVE COPY RESULTS: parameter list and parameter data (SPC-4 6.4, 6.20, 6.21).

This module has only what a copy between block devices needs: identification descriptors of copy sources and
copy destinations (CSCD descriptors), and block to block segment descriptors. A list with other descriptors is
decoded too; the bytes of these descriptors are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from holdover.scsi.errors import DecodeError

_STRUCTURE = "EXTENDED COPY parameter list"
_HEADER, _CSCD, _SEGMENT = 16, 32, 28


class DescriptorType(IntEnum):
    """Descriptor type codes (SPC-4 6.4.4)."""

    BLOCK_TO_BLOCK = 0x02
    IDENTIFICATION = 0xE4


class ListIdUsage(IntEnum):
    """The use of the list identifier (SPC-4 6.4.3.2)."""

    HELD = 0x0
    DISCARDED = 0x2
    NONE = 0x3


@dataclass(frozen=True, slots=True)
class CscdDescriptor:
    """A copy source or copy destination: an identification descriptor, E4h (SPC-4 6.4.5.2), 32 bytes.

    Attributes:
        code_set: Of the designator, 4 bits.
        association: Of the designator, 2 bits.
        designator_type: 4 bits.
        designator: Up to 20 bytes.
        block_length: The bytes of a logical block, 24 bits; 0 means that it is not given.
        lu_id_type: 2 bits, obsolete; 0 is a logical unit.
        null: Copy nothing from or to this device (NUL, obsolete).
        device_type: Peripheral device type, 5 bits.
    """

    code_set: int
    association: int
    designator_type: int
    designator: bytes
    block_length: int = 0
    lu_id_type: int = 0
    null: bool = False
    device_type: int = 0

    def encode(self) -> bytes:
        """The descriptor."""
        return (
            bytes([DescriptorType.IDENTIFICATION])
            + bytes([self.lu_id_type << 6 | self.null << 5 | self.device_type, 0, 0, self.code_set])
            + bytes([self.association << 4 | self.designator_type, 0, len(self.designator)])
            + self.designator.ljust(20, b"\0")
            + bytes([0])
            + self.block_length.to_bytes(3, "big")
        )

    @classmethod
    def decode(cls, data: bytes) -> CscdDescriptor:
        """The descriptor in 32 bytes that have this type.

        Raises:
            DecodeError: The designator is longer than its field.
        """
        if data[7] > 20:
            raise DecodeError(_STRUCTURE, f"designator of {data[7]} bytes, at most 20 are allowed", 7)
        return cls(
            code_set=data[4] & 0x0F,
            association=data[5] >> 4 & 0x3,
            designator_type=data[5] & 0x0F,
            designator=data[8 : 8 + data[7]],
            block_length=int.from_bytes(data[29:32], "big"),
            lu_id_type=data[1] >> 6,
            null=data[1] & 0x20 != 0,
            device_type=data[1] & 0x1F,
        )


@dataclass(frozen=True, slots=True)
class SegmentDescriptor:
    """A copy from a block device to a block device, 02h (SPC-4 6.4.6.3): 28 bytes.

    Attributes:
        source: The index of the source's CSCD descriptor, 16 bits.
        destination: The index of the destination's CSCD descriptor, 16 bits.
        blocks: The number of blocks, 16 bits.
        source_lba: The first block to read, 64 bits.
        destination_lba: The first block to write, 64 bits.
        by_destination: `blocks` counts blocks of the destination, not of the source (DC).
    """

    source: int
    destination: int
    blocks: int
    source_lba: int
    destination_lba: int
    by_destination: bool = False

    def encode(self) -> bytes:
        """The descriptor."""
        return (
            bytes([DescriptorType.BLOCK_TO_BLOCK, self.by_destination << 1, 0, _SEGMENT - 4])
            + self.source.to_bytes(2, "big")
            + self.destination.to_bytes(2, "big")
            + bytes(2)
            + self.blocks.to_bytes(2, "big")
            + self.source_lba.to_bytes(8, "big")
            + self.destination_lba.to_bytes(8, "big")
        )

    @classmethod
    def decode(cls, data: bytes) -> SegmentDescriptor:
        """The descriptor in 28 bytes that have this type.

        Raises:
            DecodeError: The descriptor's length field says another length.
        """
        if int.from_bytes(data[2:4], "big") != _SEGMENT - 4:
            raise DecodeError(_STRUCTURE, f"descriptor length {data[2:4].hex()}h of a block to block copy", 2)
        return cls(
            source=int.from_bytes(data[4:6], "big"),
            destination=int.from_bytes(data[6:8], "big"),
            blocks=int.from_bytes(data[10:12], "big"),
            source_lba=int.from_bytes(data[12:20], "big"),
            destination_lba=int.from_bytes(data[20:28], "big"),
            by_destination=data[1] & 0x02 != 0,
        )


@dataclass(frozen=True, slots=True)
class OtherDescriptor:
    """A descriptor that this package does not decode. It ends its list, because its length is not known.

    Attributes:
        raw: The bytes of the descriptor and all bytes after it.
    """

    raw: bytes

    @property
    def type(self) -> int:
        """The descriptor type code."""
        return self.raw[0]

    def encode(self) -> bytes:
        """The bytes, unchanged."""
        return self.raw


@dataclass(frozen=True, slots=True)
class CopyList:
    """EXTENDED COPY(LID1) parameter list (SPC-4 6.4.3).

    Attributes:
        cscds: Copy sources and destinations, to which the segments refer by index.
        segments: The copies to make, in this order.
        list_identifier: The identifier by which RECEIVE COPY RESULTS asks for the copy, 8 bits.
        list_id_usage: 2 bits; an int, so that reserved values survive.
        priority: 3 bits.
        sequential: Sequential striped (STR).
        inline: Inline data.
    """

    cscds: tuple[CscdDescriptor | OtherDescriptor, ...]
    segments: tuple[SegmentDescriptor | OtherDescriptor, ...]
    list_identifier: int = 0
    list_id_usage: int = ListIdUsage.HELD
    priority: int = 0
    sequential: bool = False
    inline: bytes = b""

    def encode(self) -> bytes:
        """The whole list."""
        cscds = b"".join(each.encode() for each in self.cscds)
        segments = b"".join(each.encode() for each in self.segments)
        flags = self.sequential << 5 | self.list_id_usage << 3 | self.priority
        return (
            bytes([self.list_identifier, flags])
            + len(cscds).to_bytes(2, "big")
            + bytes(4)
            + len(segments).to_bytes(4, "big")
            + len(self.inline).to_bytes(4, "big")
            + cscds
            + segments
            + self.inline
        )

    @classmethod
    def decode(cls, data: bytes) -> CopyList:
        """The list.

        Raises:
            DecodeError: There are fewer than 16 bytes, or fewer than the list's lengths say (no offset). Or a
                descriptor of a known type is cut or contradicts itself (the offset is in the descriptors).
        """
        if len(data) < _HEADER:
            raise DecodeError(_STRUCTURE, f"length of {len(data)} bytes, {_HEADER} are needed")
        cscds_end = _HEADER + int.from_bytes(data[2:4], "big")
        segments_end = cscds_end + int.from_bytes(data[8:12], "big")
        end = segments_end + int.from_bytes(data[12:16], "big")
        if len(data) < end:
            raise DecodeError(_STRUCTURE, f"length of {len(data)} bytes, its lengths need {end}")
        flags = data[1]
        return cls(
            cscds=_decode_cscds(data[_HEADER:cscds_end]),
            segments=_decode_segments(data[cscds_end:segments_end], cscds_end),
            list_identifier=data[0],
            list_id_usage=flags >> 3 & 0x3,
            priority=flags & 0x7,
            sequential=flags & 0x20 != 0,
            inline=data[segments_end:end],
        )


def _decode_cscds(data: bytes) -> tuple[CscdDescriptor | OtherDescriptor, ...]:
    found: list[CscdDescriptor | OtherDescriptor] = []
    for at in range(0, len(data), _CSCD):
        if data[at] != DescriptorType.IDENTIFICATION:
            return (*found, OtherDescriptor(data[at:]))
        if at + _CSCD > len(data):
            raise DecodeError(_STRUCTURE, "the last CSCD descriptor is cut off", _HEADER + at)
        found.append(CscdDescriptor.decode(data[at : at + _CSCD]))
    return tuple(found)


def _decode_segments(data: bytes, offset: int) -> tuple[SegmentDescriptor | OtherDescriptor, ...]:
    found: list[SegmentDescriptor | OtherDescriptor] = []
    for at in range(0, len(data), _SEGMENT):
        if data[at] != DescriptorType.BLOCK_TO_BLOCK:
            return (*found, OtherDescriptor(data[at:]))
        if at + _SEGMENT > len(data):
            raise DecodeError(_STRUCTURE, "the last segment descriptor is cut off", offset + at)
        found.append(SegmentDescriptor.decode(data[at : at + _SEGMENT]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """COPY STATUS(LID1) parameter data (SPC-4 6.20): 12 bytes.

    Attributes:
        status: 0: in progress; 1: done without errors; 2: done with errors.
        segments: The number of processed segments, 16 bits.
        transferred: The bytes written by the current or last segment; a large number is reported in KiB.
        held_discarded: The logical unit holds no data (HDD).
    """

    status: int
    segments: int
    transferred: int
    held_discarded: bool = True

    def encode(self) -> bytes:
        """The whole data."""
        units, count = (0, self.transferred) if self.transferred >> 32 == 0 else (1, self.transferred >> 10)
        return (
            bytes([0, 0, 0, 8, self.held_discarded << 7 | self.status])
            + self.segments.to_bytes(2, "big")
            + bytes([units])
            + min(count, 0xFFFFFFFF).to_bytes(4, "big")
        )


@dataclass(frozen=True, slots=True)
class OperatingParameters:
    """RECEIVE COPY OPERATING PARAMETERS data (SPC-4 6.21).

    Attributes:
        cscds: The most CSCD descriptors in one list.
        segments: The most segment descriptors in one list.
        list_length: The most bytes of all descriptors.
        segment_length: The most bytes of one segment.
        concurrent: The most copies at one time.
        types: Descriptor type codes.
    """

    cscds: int
    segments: int
    list_length: int
    segment_length: int
    concurrent: int
    types: tuple[int, ...]

    def encode(self) -> bytes:
        """The whole data."""
        body = (
            bytes([1, 0, 0, 0])  # SNLID: a list without a list identifier is supported
            + self.cscds.to_bytes(2, "big")
            + self.segments.to_bytes(2, "big")
            + self.list_length.to_bytes(4, "big")
            + self.segment_length.to_bytes(4, "big")
            + bytes(14)  # no inline data, no held data, no streams
            + self.concurrent.to_bytes(2, "big")
            + bytes([min(self.concurrent, 255), 9, 0, 0, 0, 0, 0, len(self.types)])
            + bytes(self.types)
        )
        return len(body).to_bytes(4, "big") + body
