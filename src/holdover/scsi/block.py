"""Parameter data of block devices: READ CAPACITY, REPORT LUNS, UNMAP, GET LBA STATUS, READ DEFECT DATA,
SANITIZE (SBC-3 5.4, 5.15 to 5.18, 5.21, 5.25, SPC-4 6.33).

`encode` returns the whole data; the code that answers a command cuts them to the command's allocation length.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from holdover.scsi.errors import DecodeError

_MAX_10 = 0xFFFFFFFF
_CAPACITY_10, _CAPACITY_16 = 8, 32


@dataclass(frozen=True, slots=True)
class Capacity:
    """The data of READ CAPACITY.

    Attributes:
        blocks: The number of logical blocks, at least 1.
        block_length: The bytes of one logical block.
        physical_exponent: 2 to this power logical blocks are one physical block, 4 bits.
        thin: Logical block provisioning management is enabled (LBPME).
        reads_zeros: Unmapped blocks read as zeros (LBPRZ).
        lowest_aligned: The first logical block at the start of a physical one, 14 bits.
    """

    blocks: int
    block_length: int
    physical_exponent: int = 0
    thin: bool = False
    reads_zeros: bool = False
    lowest_aligned: int = 0

    def encode_10(self) -> bytes:
        """READ CAPACITY(10) data: 8 bytes; FFFFFFFFh as the last block tells the reader to use (16)."""
        return min(self.blocks - 1, _MAX_10).to_bytes(4, "big") + self.block_length.to_bytes(4, "big")

    def encode_16(self) -> bytes:
        """READ CAPACITY(16) data: 32 bytes."""
        provisioning = self.thin << 15 | self.reads_zeros << 14 | self.lowest_aligned
        return (
            (self.blocks - 1).to_bytes(8, "big")
            + self.block_length.to_bytes(4, "big")
            + bytes([0, self.physical_exponent])
            + provisioning.to_bytes(2, "big")
            + bytes(16)
        )

    @classmethod
    def decode_10(cls, data: bytes) -> Capacity | None:
        """The capacity in READ CAPACITY(10) data; None when the reader must use READ CAPACITY(16).

        Raises:
            DecodeError: There are fewer than 8 bytes.
        """
        _require("READ CAPACITY(10) data", data, _CAPACITY_10)
        last = int.from_bytes(data[0:4], "big")
        return None if last == _MAX_10 else cls(last + 1, int.from_bytes(data[4:8], "big"))

    @classmethod
    def decode_16(cls, data: bytes) -> Capacity:
        """The capacity in READ CAPACITY(16) data; the fields after the block length may be cut off.

        Raises:
            DecodeError: There are fewer than 12 bytes.
        """
        _require("READ CAPACITY(16) data", data, 12)
        data = data.ljust(_CAPACITY_16, b"\0")
        return cls(
            blocks=int.from_bytes(data[0:8], "big") + 1,
            block_length=int.from_bytes(data[8:12], "big"),
            physical_exponent=data[13] & 0x0F,
            thin=bool(data[14] & 0x80),
            reads_zeros=bool(data[14] & 0x40),
            lowest_aligned=int.from_bytes(data[14:16], "big") & 0x3FFF,
        )


@dataclass(frozen=True, slots=True)
class LunList:
    """REPORT LUNS parameter data.

    Attributes:
        luns: Logical unit numbers of 8 bytes each, as on the wire.
        complete: Whether these are all; False when the allocation length cut the data.
    """

    luns: tuple[bytes, ...]
    complete: bool = True

    def encode(self) -> bytes:
        """The whole data."""
        return (8 * len(self.luns)).to_bytes(4, "big") + bytes(4) + b"".join(self.luns)

    @classmethod
    def decode(cls, data: bytes) -> LunList:
        """The logical unit numbers that the data contain whole.

        Raises:
            DecodeError: There are fewer than 8 bytes.
        """
        _require("REPORT LUNS data", data, 8)
        length = int.from_bytes(data[0:4], "big")
        body = data[8 : 8 + length]
        luns = tuple(body[at : at + 8] for at in range(0, len(body) - 7, 8))
        return cls(luns, complete=8 * len(luns) == length)


@dataclass(frozen=True, slots=True)
class UnmapList:
    """UNMAP parameter list (SBC-3 5.25.2).

    Attributes:
        ranges: The first block and the count of each block descriptor: 64 and 32 bits.
    """

    ranges: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        """The whole list."""
        body = b"".join(lba.to_bytes(8, "big") + n.to_bytes(4, "big") + bytes(4) for lba, n in self.ranges)
        return (len(body) + 6).to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes(4) + body

    @classmethod
    def decode(cls, data: bytes) -> UnmapList:
        """The block descriptors that the data contain whole. A descriptor that a length cuts off is left out.

        The standard requires this.

        Raises:
            DecodeError: There are fewer than 8 bytes.
        """
        _require("UNMAP parameter list", data, 8)
        end = min(len(data), 8 + int.from_bytes(data[2:4], "big"))
        return cls(
            tuple(
                (int.from_bytes(data[at : at + 8], "big"), int.from_bytes(data[at + 8 : at + 12], "big"))
                for at in range(8, end - 15, 16)
            )
        )


class Provisioning(IntEnum):
    """The provisioning status of a range of blocks (SBC-3 5.4.2.2)."""

    MAPPED = 0x0
    DEALLOCATED = 0x1
    ANCHORED = 0x2


@dataclass(frozen=True, slots=True)
class LbaStatusDescriptor:
    """One range in GET LBA STATUS data.

    Attributes:
        lba: The first block, 64 bits.
        blocks: The number of blocks, 32 bits.
        status: The provisioning status of the blocks.
    """

    lba: int
    blocks: int
    status: Provisioning


@dataclass(frozen=True, slots=True)
class LbaStatus:
    """GET LBA STATUS parameter data (SBC-3 5.4.2).

    Attributes:
        descriptors: Ascending, without gaps.
    """

    descriptors: tuple[LbaStatusDescriptor, ...]

    def encode(self) -> bytes:
        """The whole data."""
        body = b"".join(
            each.lba.to_bytes(8, "big") + each.blocks.to_bytes(4, "big") + bytes([each.status, 0, 0, 0])
            for each in self.descriptors
        )
        return (len(body) + 4).to_bytes(4, "big") + bytes(4) + body

    @classmethod
    def decode(cls, data: bytes) -> LbaStatus:
        """The descriptors that the data contain whole.

        Raises:
            DecodeError: There are fewer than 8 bytes, or a provisioning status that is reserved.
        """
        _require("GET LBA STATUS data", data, 8)
        end = min(len(data), 4 + int.from_bytes(data[0:4], "big"))
        return cls(tuple(_decode_lba_status(data[at : at + 16], at) for at in range(8, end - 15, 16)))


def _decode_lba_status(data: bytes, at: int) -> LbaStatusDescriptor:
    try:
        status = Provisioning(data[12] & 0x0F)
    except ValueError:
        problem = f"provisioning status {data[12] & 0x0F:X}h is reserved"
        raise DecodeError("GET LBA STATUS data", problem, at + 12) from None
    return LbaStatusDescriptor(int.from_bytes(data[0:8], "big"), int.from_bytes(data[8:12], "big"), status)


@dataclass(frozen=True, slots=True)
class DefectList:
    """READ DEFECT DATA parameter data of a medium without defects (SBC-3 5.17.2, 5.18.2).

    Attributes:
        format: DEFECT LIST FORMAT, 3 bits.
        primary: Whether the data contain the primary list.
        grown: Whether the data contain the grown list.
    """

    format: int
    primary: bool
    grown: bool

    def encode_10(self) -> bytes:
        """READ DEFECT DATA(10) data: 4 bytes."""
        return bytes([0, self._flags(), 0, 0])

    def encode_12(self) -> bytes:
        """READ DEFECT DATA(12) data: 8 bytes."""
        return bytes([0, self._flags()]) + bytes(6)

    def _flags(self) -> int:
        return self.primary << 4 | self.grown << 3 | self.format


@dataclass(frozen=True, slots=True)
class OverwriteParameters:
    """The parameter list of SANITIZE with OVERWRITE (SBC-3 5.21.2.2).

    Attributes:
        pattern: The initialization pattern.
        count: The number of times that the medium is overwritten, 5 bits.
        test: 2 bits; vendor specific, except 0.
        invert: Every second pass writes the pattern inverted.
    """

    pattern: bytes
    count: int = 1
    test: int = 0
    invert: bool = False

    def encode(self) -> bytes:
        """The whole list."""
        flags = self.invert << 7 | self.test << 5 | self.count
        return bytes([flags, 0]) + len(self.pattern).to_bytes(2, "big") + self.pattern

    @classmethod
    def decode(cls, data: bytes) -> OverwriteParameters:
        """The list.

        Raises:
            DecodeError: There are fewer than 4 bytes, or fewer than the pattern's length says.
        """
        structure = "SANITIZE parameter list"
        _require(structure, data, 4)
        length = int.from_bytes(data[2:4], "big")
        _require(structure, data, 4 + length)
        flags = data[0]
        return cls(data[4 : 4 + length], flags & 0x1F, flags >> 5 & 0x3, flags & 0x80 != 0)


def _require(structure: str, data: bytes, length: int) -> None:
    if len(data) < length:
        raise DecodeError(structure, f"length of {len(data)} bytes, {length} are needed")
