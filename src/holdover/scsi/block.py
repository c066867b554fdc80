"""Parameter data of block devices: READ CAPACITY, REPORT LUNS (SBC-3 5.15, 5.16, SPC-4 6.33).

`encode` gives the data whole; whoever answers a command cuts them to its allocation length.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdover.scsi.errors import DecodeError

__all__ = ["Capacity", "LunList"]

_MAX_10 = 0xFFFFFFFF
_CAPACITY_10, _CAPACITY_16 = 8, 32


@dataclass(frozen=True, slots=True)
class Capacity:
    """What READ CAPACITY tells.

    Attributes:
        blocks: Number of logical blocks, at least 1.
        block_length: Bytes of one.
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
        """READ CAPACITY(10) data: 8 bytes; FFFFFFFFh for the last block sends the reader to (16)."""
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
        """The capacity in READ CAPACITY(10) data; None if it needs READ CAPACITY(16).

        Raises:
            DecodeError: Fewer than 8 bytes.
        """
        _require("READ CAPACITY(10) data", data, _CAPACITY_10)
        last = int.from_bytes(data[0:4], "big")
        return None if last == _MAX_10 else cls(last + 1, int.from_bytes(data[4:8], "big"))

    @classmethod
    def decode_16(cls, data: bytes) -> Capacity:
        """The capacity in READ CAPACITY(16) data; the fields after the block length may be cut off.

        Raises:
            DecodeError: Fewer than 12 bytes.
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
        luns: 8-byte logical unit numbers as they stand on the wire.
        complete: Whether these are all; False when the data were cut by the allocation length.
    """

    luns: tuple[bytes, ...]
    complete: bool = True

    def encode(self) -> bytes:
        """The data, whole."""
        return (8 * len(self.luns)).to_bytes(4, "big") + bytes(4) + b"".join(self.luns)

    @classmethod
    def decode(cls, data: bytes) -> LunList:
        """The logical unit numbers that are there whole.

        Raises:
            DecodeError: Fewer than 8 bytes.
        """
        _require("REPORT LUNS data", data, 8)
        length = int.from_bytes(data[0:4], "big")
        body = data[8 : 8 + length]
        luns = tuple(body[at : at + 8] for at in range(0, len(body) - 7, 8))
        return cls(luns, complete=8 * len(luns) == length)


def _require(structure: str, data: bytes, length: int) -> None:
    if len(data) < length:
        raise DecodeError(structure, f"length of {len(data)} bytes, {length} are needed")
