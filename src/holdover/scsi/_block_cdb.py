"""CDBs of block devices (SBC-3 5). Split from `cdb` for its length; import these names from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdover.scsi.opcodes import OperationCode, ServiceActionIn16

__all__ = [
    "DPO",
    "FUA",
    "Read",
    "ReadCapacity10",
    "ReadCapacity16",
    "SynchronizeCache",
    "TransferSize",
    "Verify",
    "Write",
]

TransferSize = Literal[6, 10, 12, 16]
"""Lengths of the CDBs of READ and WRITE."""

FUA, DPO = 0x08, 0x10
"""Bits of byte 1: force unit access, disable page out."""


@dataclass(frozen=True, slots=True)
class ReadCapacity10:
    """READ CAPACITY(10) (SBC-3 5.15): 10 bytes."""

    def encode(self) -> bytes:
        """The CDB."""
        return bytes([OperationCode.READ_CAPACITY_10]) + bytes(9)


@dataclass(frozen=True, slots=True)
class ReadCapacity16:
    """READ CAPACITY(16) (SBC-3 5.16): 16 bytes, a service action of SERVICE ACTION IN(16).

    Attributes:
        allocation_length: Size of the Data-In buffer, 32 bits.
    """

    allocation_length: int

    def encode(self) -> bytes:
        """The CDB."""
        return (
            bytes([OperationCode.SERVICE_ACTION_IN_16, ServiceActionIn16.READ_CAPACITY_16])
            + bytes(8)
            + self.allocation_length.to_bytes(4, "big")
            + bytes(2)
        )


@dataclass(frozen=True, slots=True)
class Read:
    """READ(6), (10), (12) and (16) (SBC-3 5.11 to 5.14).

    Attributes:
        lba: The first logical block.
        blocks: How many; a TRANSFER LENGTH of 0 in READ(6) is 256.
        size: Length of the CDB.
        fua: Past the cache.
        dpo: Not worth caching.
        protect: RDPROTECT, 3 bits.
    """

    lba: int
    blocks: int
    size: TransferSize = 16
    fua: bool = False
    dpo: bool = False
    protect: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        flags = self.protect << 5 | DPO * self.dpo | FUA * self.fua
        return _encode_transfer(_READ_CODES[self.size], self.size, flags, self.lba, self.blocks)


@dataclass(frozen=True, slots=True)
class Write:
    """WRITE(6), (10), (12) and (16) (SBC-3 5.32 to 5.35).

    Attributes:
        lba: The first logical block.
        blocks: How many; a TRANSFER LENGTH of 0 in WRITE(6) is 256.
        size: Length of the CDB.
        fua: To the medium before the status.
        dpo: Not worth caching.
        protect: WRPROTECT, 3 bits.
    """

    lba: int
    blocks: int
    size: TransferSize = 16
    fua: bool = False
    dpo: bool = False
    protect: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        flags = self.protect << 5 | DPO * self.dpo | FUA * self.fua
        return _encode_transfer(_WRITE_CODES[self.size], self.size, flags, self.lba, self.blocks)


@dataclass(frozen=True, slots=True)
class SynchronizeCache:
    """SYNCHRONIZE CACHE(10) and (16) (SBC-3 5.27, 5.28).

    Attributes:
        lba: The first logical block.
        blocks: How many; 0 is up to the last one.
        size: Length of the CDB.
        immed: Status as soon as the CDB is checked.
    """

    lba: int = 0
    blocks: int = 0
    size: Literal[10, 16] = 10
    immed: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        return _encode_transfer(
            _SYNCHRONIZE_CODES[self.size], self.size, self.immed << 1, self.lba, self.blocks
        )


@dataclass(frozen=True, slots=True)
class Verify:
    """VERIFY(10), (12) and (16) (SBC-3 5.29 to 5.31).

    Attributes:
        lba: The first logical block.
        blocks: How many.
        size: Length of the CDB.
        bytchk: 0 the medium alone, 1 compare with the Data-Out buffer, 3 compare every block with one.
        dpo: Not worth caching.
        protect: VRPROTECT, 3 bits.
    """

    lba: int
    blocks: int
    size: Literal[10, 12, 16] = 16
    bytchk: int = 0
    dpo: bool = False
    protect: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        flags = self.protect << 5 | DPO * self.dpo | self.bytchk << 1
        return _encode_transfer(_VERIFY_CODES[self.size], self.size, flags, self.lba, self.blocks)


_READ_CODES = {
    6: OperationCode.READ_6,
    10: OperationCode.READ_10,
    12: OperationCode.READ_12,
    16: OperationCode.READ_16,
}
_WRITE_CODES = {
    6: OperationCode.WRITE_6,
    10: OperationCode.WRITE_10,
    12: OperationCode.WRITE_12,
    16: OperationCode.WRITE_16,
}
_VERIFY_CODES = {
    10: OperationCode.VERIFY_10,
    12: OperationCode.VERIFY_12,
    16: OperationCode.VERIFY_16,
}
_SYNCHRONIZE_CODES = {
    10: OperationCode.SYNCHRONIZE_CACHE_10,
    16: OperationCode.SYNCHRONIZE_CACHE_16,
}


def _encode_transfer(opcode: OperationCode, size: int, flags: int, lba: int, blocks: int) -> bytes:
    """The layouts that all commands with a block address and a count share."""
    if size == 6:
        if not 1 <= blocks <= 256 or lba >> 21 or flags:
            raise ValueError(f"{opcode.name} cannot hold block {lba}, {blocks} blocks, flags {flags:02X}h")
        return bytes([opcode]) + lba.to_bytes(3, "big") + bytes([blocks & 0xFF, 0])
    if size == 10:
        tail = lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big")
    elif size == 12:
        tail = lba.to_bytes(4, "big") + blocks.to_bytes(4, "big") + b"\0"
    else:
        tail = lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + b"\0"
    return bytes([opcode, flags]) + tail + b"\0"
