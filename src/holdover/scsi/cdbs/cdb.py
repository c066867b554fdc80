"""Command descriptor blocks, typed (SPC-4 6, SBC-3 5).

`decode_cdb` looks up the operation code in a table of small functions, because every READ and WRITE must pass
through `decode_cdb` fast. Fields that no part of the project uses (GROUP NUMBER, CONTROL, obsolete bits) are
not kept, and are encoded as 0. A CDB may be longer than its operation code needs, because transports pad it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from holdover.scsi.cdbs import _block_cdb, _device_cdb
from holdover.scsi.cdbs._block_cdb import (
    BlockCdb,
    CompareAndWrite,
    OrWrite,
    PreFetch,
    Read,
    ReadCapacity10,
    ReadCapacity16,
    SynchronizeCache,
    Verify,
    Write,
    WriteAndVerify,
    WriteSame,
)
from holdover.scsi.cdbs._device_cdb import (
    DeviceCdb,
    ExtendedCopy,
    GetLbaStatus,
    ModeSelect,
    PreventAllowMediumRemoval,
    ReadDefectData,
    ReceiveCopyResults,
    ReportSupportedOperationCodes,
    ReportSupportedTaskManagementFunctions,
    Sanitize,
    SendDiagnostic,
    StartStopUnit,
    Unmap,
    decode_get_lba_status,
)
from holdover.scsi.cdbs.opcodes import OperationCode, ServiceActionIn16
from holdover.scsi.errors import DecodeError

__all__ = [
    "Cdb",
    "CompareAndWrite",
    "ExtendedCopy",
    "GetLbaStatus",
    "Inquiry",
    "ModeSelect",
    "ModeSense6",
    "ModeSense10",
    "OrWrite",
    "OtherCdb",
    "PersistentReserveIn",
    "PersistentReserveOut",
    "PreFetch",
    "PreventAllowMediumRemoval",
    "Read",
    "ReadCapacity10",
    "ReadCapacity16",
    "ReadDefectData",
    "ReceiveCopyResults",
    "Release",
    "ReportLuns",
    "ReportSupportedOperationCodes",
    "ReportSupportedTaskManagementFunctions",
    "RequestSense",
    "Reserve",
    "Sanitize",
    "SendDiagnostic",
    "StartStopUnit",
    "SynchronizeCache",
    "TestUnitReady",
    "Unmap",
    "Verify",
    "Write",
    "WriteAndVerify",
    "WriteSame",
    "decode_cdb",
]


class PersistentReserveIn(msgspec.Struct, frozen=True, gc=False):
    """PERSISTENT RESERVE IN (SPC-4 6.15): 10 bytes.

    Attributes:
        service_action: 5 bits; an int, so that reserved values survive.
        allocation_length: The size of the Data-In buffer, 16 bits.
    """

    service_action: int
    allocation_length: int

    def encode(self) -> bytes:
        """The CDB."""
        length = self.allocation_length.to_bytes(2, "big")
        return bytes([OperationCode.PERSISTENT_RESERVE_IN, self.service_action, 0, 0, 0, 0, 0, *length, 0])

    @classmethod
    def decode(cls, cdb: bytes) -> PersistentReserveIn:
        """The CDB of this operation code.

        Raises:
            DecodeError: The CDB is shorter than 10 bytes.
        """
        _require(cdb, 10, "PERSISTENT RESERVE IN CDB")
        return cls(cdb[1] & 0x1F, _number(cdb, 7, 8))


class PersistentReserveOut(msgspec.Struct, frozen=True, gc=False):
    """PERSISTENT RESERVE OUT (SPC-4 6.16): 10 bytes.

    Attributes:
        service_action: 5 bits; an int, so that reserved values survive.
        parameter_list_length: The size of the parameter list, 32 bits.
        type: Reservation type, 4 bits; an int, so that reserved values survive.
        scope: Reservation scope, 4 bits.
    """

    service_action: int
    parameter_list_length: int
    type: int = 0
    scope: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        length = self.parameter_list_length.to_bytes(4, "big")
        return bytes(
            [
                OperationCode.PERSISTENT_RESERVE_OUT,
                self.service_action,
                self.scope << 4 | self.type,
                0,
                0,
                *length,
                0,
            ]
        )

    @classmethod
    def decode(cls, cdb: bytes) -> PersistentReserveOut:
        """The CDB of this operation code.

        Raises:
            DecodeError: The CDB is shorter than 10 bytes.
        """
        _require(cdb, 10, "PERSISTENT RESERVE OUT CDB")
        return cls(cdb[1] & 0x1F, _number(cdb, 5, 8), cdb[2] & 0x0F, cdb[2] >> 4)


class Inquiry(msgspec.Struct, frozen=True, gc=False):
    """INQUIRY (SPC-4 6.6): 6 bytes.

    Attributes:
        allocation_length: The size of the Data-In buffer, 16 bits.
        page_code: The vital product data page, or None for standard INQUIRY data (EVPD 0).
    """

    allocation_length: int
    page_code: int | None = None

    def encode(self) -> bytes:
        """The CDB."""
        length = self.allocation_length.to_bytes(2, "big")
        return bytes([OperationCode.INQUIRY, self.page_code is not None, self.page_code or 0, *length, 0])


class TestUnitReady(msgspec.Struct, frozen=True, gc=False):
    """TEST UNIT READY (SPC-4 6.47): 6 bytes."""

    def encode(self) -> bytes:
        """The CDB."""
        return bytes([OperationCode.TEST_UNIT_READY, 0, 0, 0, 0, 0])


@dataclass(frozen=True, slots=True)
class RequestSense:
    """REQUEST SENSE (SPC-4 6.39): 6 bytes.

    Attributes:
        allocation_length: The size of the Data-In buffer, 8 bits.
        descriptor_format: Whether the command asks for sense data in descriptor format (DESC).
    """

    allocation_length: int
    descriptor_format: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        return bytes([OperationCode.REQUEST_SENSE, self.descriptor_format, 0, 0, self.allocation_length, 0])


@dataclass(frozen=True, slots=True)
class ReportLuns:
    """REPORT LUNS (SPC-4 6.33): 12 bytes.

    Attributes:
        allocation_length: The size of the Data-In buffer, 32 bits.
        select_report: The logical units that the command asks for, 8 bits.
    """

    allocation_length: int
    select_report: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        length = self.allocation_length.to_bytes(4, "big")
        return bytes([OperationCode.REPORT_LUNS, 0, self.select_report, 0, 0, 0, *length, 0, 0])


@dataclass(frozen=True, slots=True)
class ModeSense6:
    """MODE SENSE(6) (SPC-4 6.14): 6 bytes.

    Attributes:
        page_code: 6 bits; 3Fh is all pages.
        subpage_code: 8 bits.
        allocation_length: The size of the Data-In buffer, 8 bits.
        dbd: Leave block descriptors out.
        page_control: 0 current, 1 changeable, 2 default, 3 saved values.
    """

    page_code: int
    subpage_code: int
    allocation_length: int
    dbd: bool = False
    page_control: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        page = self.page_control << 6 | self.page_code
        return bytes(
            [
                OperationCode.MODE_SENSE_6,
                self.dbd << 3,
                page,
                self.subpage_code,
                self.allocation_length,
                0,
            ]
        )


@dataclass(frozen=True, slots=True)
class ModeSense10:
    """MODE SENSE(10) (SPC-4 6.15): 10 bytes.

    Attributes:
        page_code: 6 bits; 3Fh is all pages.
        subpage_code: 8 bits.
        allocation_length: The size of the Data-In buffer, 16 bits.
        dbd: Leave block descriptors out.
        page_control: 0 current, 1 changeable, 2 default, 3 saved values.
        llbaa: Long block descriptors are accepted.
    """

    page_code: int
    subpage_code: int
    allocation_length: int
    dbd: bool = False
    page_control: int = 0
    llbaa: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        page = self.page_control << 6 | self.page_code
        length = self.allocation_length.to_bytes(2, "big")
        flags = self.llbaa << 4 | self.dbd << 3
        return bytes([OperationCode.MODE_SENSE_10, flags, page, self.subpage_code, 0, 0, 0, *length, 0])


@dataclass(frozen=True, slots=True)
class Reserve:
    """RESERVE(6) and RESERVE(10) (SPC-2 7.21, 7.22).

    Attributes:
        size: The length of the CDB.
        third_party: Reserve for another device (3RDPTY).
        extent: Reserve extents only (obsolete since SPC-2).
    """

    size: Literal[6, 10] = 6
    third_party: bool = False
    extent: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        opcode = OperationCode.RESERVE_6 if self.size == 6 else OperationCode.RESERVE_10
        return _encode_reserve(opcode, self.size, self.third_party, self.extent)


@dataclass(frozen=True, slots=True)
class Release:
    """RELEASE(6) and RELEASE(10) (SPC-2 7.16, 7.17).

    Attributes:
        size: The length of the CDB.
        third_party: Release what was reserved for another device (3RDPTY).
        extent: Release extents only (obsolete since SPC-2).
    """

    size: Literal[6, 10] = 6
    third_party: bool = False
    extent: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        opcode = OperationCode.RELEASE_6 if self.size == 6 else OperationCode.RELEASE_10
        return _encode_reserve(opcode, self.size, self.third_party, self.extent)


@dataclass(frozen=True, slots=True)
class OtherCdb:
    """A CDB that this package does not decode.

    Attributes:
        raw: All bytes of the CDB.
    """

    raw: bytes

    def encode(self) -> bytes:
        """The bytes, unchanged."""
        return self.raw


Cdb = (
    BlockCdb
    | DeviceCdb
    | GetLbaStatus
    | Inquiry
    | ModeSense6
    | ModeSense10
    | OtherCdb
    | PersistentReserveIn
    | PersistentReserveOut
    | ReadCapacity16
    | Release
    | ReportLuns
    | RequestSense
    | Reserve
    | TestUnitReady
)


def _encode_reserve(opcode: OperationCode, size: int, third_party: bool, extent: bool) -> bytes:
    return bytes([opcode, third_party << 4 | extent]) + bytes(size - 2)


def decode_cdb(cdb: bytes) -> Cdb:
    """The typed form of a CDB; `OtherCdb` for an operation code or service action without one.

    Raises:
        DecodeError: The CDB is empty, shorter than its operation code needs, or contradicts itself.
    """
    if not cdb:
        raise DecodeError("CDB", "no bytes")
    entry = _DECODERS.get(cdb[0])
    if entry is None:
        return OtherCdb(cdb)
    length, decode = entry
    if len(cdb) < length:
        _require(cdb, length, OperationCode(cdb[0]).name.replace("_", " ") + " CDB")
    return decode(cdb) or OtherCdb(cdb)


def _require(cdb: bytes, length: int, structure: str) -> None:
    if len(cdb) < length:
        raise DecodeError(structure, f"length of {len(cdb)} bytes, {length} are needed")


def _number(cdb: bytes, first: int, last: int) -> int:
    return int.from_bytes(cdb[first : last + 1], "big")


def _inquiry(cdb: bytes) -> Inquiry:
    evpd, page_code = cdb[1] & 0x01, cdb[2]
    if page_code and not evpd:
        raise DecodeError("INQUIRY CDB", f"page code {page_code:02X}h without EVPD", 2)
    return Inquiry(_number(cdb, 3, 4), page_code if evpd else None)


def _mode_sense_6(cdb: bytes) -> ModeSense6:
    return ModeSense6(cdb[2] & 0x3F, cdb[3], cdb[4], cdb[1] & 0x08 != 0, cdb[2] >> 6)


def _mode_sense_10(cdb: bytes) -> ModeSense10:
    flags = cdb[1]
    return ModeSense10(
        cdb[2] & 0x3F, cdb[3], _number(cdb, 7, 8), flags & 0x08 != 0, cdb[2] >> 6, flags & 0x10 != 0
    )


def _service_action_in_16(cdb: bytes) -> ReadCapacity16 | GetLbaStatus | None:
    match cdb[1] & 0x1F:
        case ServiceActionIn16.READ_CAPACITY_16:
            return ReadCapacity16(_number(cdb, 10, 13))
        case ServiceActionIn16.GET_LBA_STATUS:
            return decode_get_lba_status(cdb)
    return None


def _third_party(cdb: bytes) -> bool:
    return cdb[1] & 0x10 != 0


def _extent(cdb: bytes) -> bool:
    return cdb[1] & 0x01 != 0


# For each operation code: the length that its CDB needs, and the function that decodes the CDB. The function
# returns None for a service action without a type.
_DECODERS: dict[int, tuple[int, Callable[[bytes], Cdb | None]]] = {
    **_block_cdb.DECODERS,
    **_device_cdb.DECODERS,
    OperationCode.TEST_UNIT_READY: (6, lambda _: TestUnitReady()),
    OperationCode.REQUEST_SENSE: (6, lambda cdb: RequestSense(cdb[4], cdb[1] & 0x01 != 0)),
    OperationCode.INQUIRY: (6, _inquiry),
    OperationCode.RESERVE_6: (6, lambda cdb: Reserve(6, _third_party(cdb), _extent(cdb))),
    OperationCode.RELEASE_6: (6, lambda cdb: Release(6, _third_party(cdb), _extent(cdb))),
    OperationCode.MODE_SENSE_6: (6, _mode_sense_6),
    OperationCode.RESERVE_10: (10, lambda cdb: Reserve(10, _third_party(cdb), _extent(cdb))),
    OperationCode.RELEASE_10: (10, lambda cdb: Release(10, _third_party(cdb), _extent(cdb))),
    OperationCode.MODE_SENSE_10: (10, _mode_sense_10),
    OperationCode.PERSISTENT_RESERVE_IN: (10, PersistentReserveIn.decode),
    OperationCode.PERSISTENT_RESERVE_OUT: (10, PersistentReserveOut.decode),
    OperationCode.SERVICE_ACTION_IN_16: (16, _service_action_in_16),
    OperationCode.REPORT_LUNS: (12, lambda cdb: ReportLuns(_number(cdb, 6, 9), cdb[2])),
}
