"""CDBs that name a range of blocks (SBC-3 5).

This module is a part of `cdb`, which would be too long with it; import these names from `cdb`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from holdover.scsi.cdbs.opcodes import OperationCode, ServiceActionIn16

TransferSize = Literal[6, 10, 12, 16]
"""The lengths of the CDBs of READ and WRITE."""

# Bits of byte 1: force unit access, disable page out.
FUA, DPO = 0x08, 0x10
_ANCHOR, _UNMAP, _NDOB = 0x10, 0x08, 0x01


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
        allocation_length: The size of the Data-In buffer, 32 bits.
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
        blocks: The number of blocks; a TRANSFER LENGTH of 0 in READ(6) means 256.
        size: The length of the CDB.
        fua: Read from the medium, past the cache (FUA).
        dpo: The blocks need not stay in the cache (DPO).
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
        blocks: The number of blocks; a TRANSFER LENGTH of 0 in WRITE(6) means 256.
        size: The length of the CDB.
        fua: Write to the medium before the status (FUA).
        dpo: The blocks need not stay in the cache (DPO).
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
        blocks: The number of blocks; 0 means up to the last block.
        size: The length of the CDB.
        immed: The status comes as soon as the CDB is checked (IMMED).
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
        blocks: The number of blocks.
        size: The length of the CDB.
        bytchk: 0: check only the medium; 1: compare with the Data-Out buffer; 3: compare every block with the
            one block in the Data-Out buffer.
        dpo: The blocks need not stay in the cache (DPO).
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


@dataclass(frozen=True, slots=True)
class WriteAndVerify:
    """WRITE AND VERIFY(10), (12) and (16) (SBC-3 5.36 to 5.38).

    Attributes:
        lba: The first logical block.
        blocks: The number of blocks.
        size: The length of the CDB.
        bytchk: 0: verify only the medium; 1: compare it with the Data-Out buffer.
        dpo: The blocks need not stay in the cache (DPO).
        protect: WRPROTECT, 3 bits.
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
        return _encode_transfer(_WRITE_AND_VERIFY_CODES[self.size], self.size, flags, self.lba, self.blocks)


@dataclass(frozen=True, slots=True)
class CompareAndWrite:
    """COMPARE AND WRITE (SBC-3 5.2): 16 bytes.

    Attributes:
        lba: The first logical block.
        blocks: The number of blocks to compare and then to write, 0 to 255.
        fua: Write to the medium before the status (FUA).
        dpo: The blocks need not stay in the cache (DPO).
        protect: WRPROTECT, 3 bits.
    """

    lba: int
    blocks: int
    fua: bool = False
    dpo: bool = False
    protect: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        flags = self.protect << 5 | DPO * self.dpo | FUA * self.fua
        head = bytes([OperationCode.COMPARE_AND_WRITE, flags]) + self.lba.to_bytes(8, "big")
        return head + bytes([0, 0, 0, self.blocks, 0, 0])


@dataclass(frozen=True, slots=True)
class OrWrite:
    """ORWRITE(16) (SBC-3 5.9): 16 bytes.

    Attributes:
        lba: The first logical block.
        blocks: The number of blocks.
        fua: Write to the medium before the status (FUA).
        dpo: The blocks need not stay in the cache (DPO).
        protect: ORPROTECT, 3 bits.
    """

    lba: int
    blocks: int
    fua: bool = False
    dpo: bool = False
    protect: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        flags = self.protect << 5 | DPO * self.dpo | FUA * self.fua
        return _encode_transfer(OperationCode.ORWRITE_16, 16, flags, self.lba, self.blocks)


@dataclass(frozen=True, slots=True)
class WriteSame:
    """WRITE SAME(10) and (16) (SBC-3 5.42, 5.43).

    Attributes:
        lba: The first logical block.
        blocks: The number of blocks; 0 means up to the last block.
        size: The length of the CDB.
        unmap: The blocks may be unmapped if they then read the same.
        anchor: The unmapped blocks must be anchored.
        no_data_out: There is no Data-Out buffer, and the blocks become zeros (NDOB; only in (16)).
        protect: WRPROTECT, 3 bits.
    """

    lba: int
    blocks: int
    size: Literal[10, 16] = 16
    unmap: bool = False
    anchor: bool = False
    no_data_out: bool = False
    protect: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        if self.no_data_out and self.size == 10:
            raise ValueError("WRITE SAME(10) has no NDOB bit")
        flags = self.protect << 5 | _ANCHOR * self.anchor | _UNMAP * self.unmap | _NDOB * self.no_data_out
        return _encode_transfer(_WRITE_SAME_CODES[self.size], self.size, flags, self.lba, self.blocks)


@dataclass(frozen=True, slots=True)
class PreFetch:
    """PRE-FETCH(10) and (16) (SBC-3 5.10, 5.11).

    Attributes:
        lba: The first logical block.
        blocks: The number of blocks; 0 means up to the last block.
        size: The length of the CDB.
        immed: The status comes as soon as the CDB is checked (IMMED).
    """

    lba: int
    blocks: int
    size: Literal[10, 16] = 10
    immed: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        return _encode_transfer(
            _PRE_FETCH_CODES[self.size], self.size, self.immed << 1, self.lba, self.blocks
        )


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
_WRITE_AND_VERIFY_CODES = {
    10: OperationCode.WRITE_AND_VERIFY_10,
    12: OperationCode.WRITE_AND_VERIFY_12,
    16: OperationCode.WRITE_AND_VERIFY_16,
}
_WRITE_SAME_CODES = {10: OperationCode.WRITE_SAME_10, 16: OperationCode.WRITE_SAME_16}
_PRE_FETCH_CODES = {10: OperationCode.PRE_FETCH_10, 16: OperationCode.PRE_FETCH_16}


def _encode_transfer(opcode: OperationCode, size: int, flags: int, lba: int, blocks: int) -> bytes:
    """The CDB in the layout that all commands with a block address and a count share."""
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


_Transfer = Callable[[bytes], Read | Write]

# For each length of a CDB: the end of the block address, and the begin and the end of the count.
_LAYOUTS: dict[int, tuple[int, int, int]] = {10: (6, 7, 9), 12: (6, 6, 10), 16: (10, 10, 14)}


def _transfer_6(kind: type[Read] | type[Write]) -> _Transfer:
    return lambda cdb: kind(int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256, 6)


def _transfer(kind: type[Read] | type[Write], size: Literal[10, 12, 16]) -> _Transfer:
    lba_end, blocks, blocks_end = _LAYOUTS[size]

    def decode(cdb: bytes) -> Read | Write:
        flags = cdb[1]
        return kind(
            int.from_bytes(cdb[2:lba_end], "big"),
            int.from_bytes(cdb[blocks:blocks_end], "big"),
            size,
            flags & FUA != 0,
            flags & DPO != 0,
            flags >> 5,
        )

    return decode


def _range(cdb: bytes, size: int) -> tuple[int, int]:
    """The block address and the count in a CDB."""
    lba_end, blocks, blocks_end = _LAYOUTS[size]
    return int.from_bytes(cdb[2:lba_end], "big"), int.from_bytes(cdb[blocks:blocks_end], "big")


def _verify(
    kind: type[Verify] | type[WriteAndVerify], size: Literal[10, 12, 16]
) -> Callable[[bytes], Verify | WriteAndVerify]:
    return lambda cdb: kind(
        *_range(cdb, size), size, bytchk=cdb[1] >> 1 & 0x3, dpo=cdb[1] & DPO != 0, protect=cdb[1] >> 5
    )


def _immediate(
    kind: type[SynchronizeCache] | type[PreFetch], size: Literal[10, 16]
) -> Callable[[bytes], SynchronizeCache | PreFetch]:
    return lambda cdb: kind(*_range(cdb, size), size, cdb[1] & 0x02 != 0)


def _write_same(size: Literal[10, 16]) -> Callable[[bytes], WriteSame]:
    return lambda cdb: WriteSame(
        *_range(cdb, size),
        size,
        unmap=cdb[1] & _UNMAP != 0,
        anchor=cdb[1] & _ANCHOR != 0,
        no_data_out=size == 16 and cdb[1] & _NDOB != 0,
        protect=cdb[1] >> 5,
    )


def _compare_and_write(cdb: bytes) -> CompareAndWrite:
    flags = cdb[1]
    return CompareAndWrite(
        int.from_bytes(cdb[2:10], "big"), cdb[13], flags & FUA != 0, flags & DPO != 0, flags >> 5
    )


def _or_write(cdb: bytes) -> OrWrite:
    flags = cdb[1]
    return OrWrite(*_range(cdb, 16), flags & FUA != 0, flags & DPO != 0, flags >> 5)


BlockCdb = (
    CompareAndWrite
    | OrWrite
    | PreFetch
    | Read
    | ReadCapacity10
    | SynchronizeCache
    | Verify
    | Write
    | WriteAndVerify
    | WriteSame
)

DECODERS: dict[int, tuple[int, Callable[[bytes], BlockCdb]]] = {
    OperationCode.READ_6: (6, _transfer_6(Read)),
    OperationCode.WRITE_6: (6, _transfer_6(Write)),
    OperationCode.READ_CAPACITY_10: (10, lambda _: ReadCapacity10()),
    OperationCode.READ_10: (10, _transfer(Read, 10)),
    OperationCode.WRITE_10: (10, _transfer(Write, 10)),
    OperationCode.WRITE_AND_VERIFY_10: (10, _verify(WriteAndVerify, 10)),
    OperationCode.VERIFY_10: (10, _verify(Verify, 10)),
    OperationCode.PRE_FETCH_10: (10, _immediate(PreFetch, 10)),
    OperationCode.SYNCHRONIZE_CACHE_10: (10, _immediate(SynchronizeCache, 10)),
    OperationCode.WRITE_SAME_10: (10, _write_same(10)),
    OperationCode.READ_16: (16, _transfer(Read, 16)),
    OperationCode.COMPARE_AND_WRITE: (16, _compare_and_write),
    OperationCode.WRITE_16: (16, _transfer(Write, 16)),
    OperationCode.ORWRITE_16: (16, _or_write),
    OperationCode.WRITE_AND_VERIFY_16: (16, _verify(WriteAndVerify, 16)),
    OperationCode.VERIFY_16: (16, _verify(Verify, 16)),
    OperationCode.PRE_FETCH_16: (16, _immediate(PreFetch, 16)),
    OperationCode.SYNCHRONIZE_CACHE_16: (16, _immediate(SynchronizeCache, 16)),
    OperationCode.WRITE_SAME_16: (16, _write_same(16)),
    OperationCode.READ_12: (12, _transfer(Read, 12)),
    OperationCode.WRITE_12: (12, _transfer(Write, 12)),
    OperationCode.WRITE_AND_VERIFY_12: (12, _verify(WriteAndVerify, 12)),
    OperationCode.VERIFY_12: (12, _verify(Verify, 12)),
}
"""For each operation code: the length that its CDB needs, and the function that decodes the CDB."""
