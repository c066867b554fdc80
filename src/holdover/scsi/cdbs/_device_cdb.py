"""CDBs that manage a block device or ask for its abilities (SBC-3 5, SPC-4 6).

This module is a part of `cdb`, which would be too long with it; import these names from `cdb`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from holdover.scsi.cdbs.opcodes import (
    CopyOutServiceAction,
    MaintenanceInServiceAction,
    OperationCode,
    ServiceActionIn16,
)
from holdover.scsi.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Unmap:
    """UNMAP (SBC-3 5.25): 10 bytes.

    Attributes:
        parameter_list_length: 16 bits.
        anchor: The unmapped blocks must be anchored.
    """

    parameter_list_length: int
    anchor: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        length = self.parameter_list_length.to_bytes(2, "big")
        return bytes([OperationCode.UNMAP, self.anchor, 0, 0, 0, 0, 0, *length, 0])


@dataclass(frozen=True, slots=True)
class GetLbaStatus:
    """GET LBA STATUS (SBC-3 5.4): 16 bytes, a service action of SERVICE ACTION IN(16).

    Attributes:
        lba: The first logical block in question.
        allocation_length: The size of the Data-In buffer, 32 bits.
    """

    lba: int
    allocation_length: int

    def encode(self) -> bytes:
        """The CDB."""
        head = bytes([OperationCode.SERVICE_ACTION_IN_16, ServiceActionIn16.GET_LBA_STATUS])
        return head + self.lba.to_bytes(8, "big") + self.allocation_length.to_bytes(4, "big") + bytes(2)


@dataclass(frozen=True, slots=True)
class ReadDefectData:
    """READ DEFECT DATA(10) and (12) (SBC-3 5.17, 5.18).

    Attributes:
        allocation_length: The size of the Data-In buffer, 16 or 32 bits.
        size: The length of the CDB.
        format: DEFECT LIST FORMAT, 3 bits.
        primary: The command asks for the primary list (REQ_PLIST).
        grown: The command asks for the grown list (REQ_GLIST).
        index: ADDRESS DESCRIPTOR INDEX, 32 bits (only in (12)).
    """

    allocation_length: int
    size: Literal[10, 12] = 12
    format: int = 0
    primary: bool = False
    grown: bool = False
    index: int = 0

    def encode(self) -> bytes:
        """The CDB."""
        request = self.primary << 4 | self.grown << 3 | self.format
        if self.size == 10:
            if self.index:
                raise ValueError("READ DEFECT DATA(10) has no ADDRESS DESCRIPTOR INDEX")
            length = self.allocation_length.to_bytes(2, "big")
            return bytes([OperationCode.READ_DEFECT_DATA_10, 0, request, 0, 0, 0, 0, *length, 0])
        numbers = self.index.to_bytes(4, "big") + self.allocation_length.to_bytes(4, "big")
        return bytes([OperationCode.READ_DEFECT_DATA_12, request]) + numbers + bytes(2)


@dataclass(frozen=True, slots=True)
class Sanitize:
    """SANITIZE (SBC-3 5.21): 10 bytes.

    Attributes:
        service_action: 5 bits; an int, so that reserved values survive.
        parameter_list_length: 16 bits.
        immed: The status comes as soon as the CDB is checked (IMMED).
        ause: EXIT FAILURE MODE may end the failure of this operation (allow unrestricted sanitize exit).
    """

    service_action: int
    parameter_list_length: int = 0
    immed: bool = False
    ause: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        flags = self.immed << 7 | self.ause << 5 | self.service_action
        length = self.parameter_list_length.to_bytes(2, "big")
        return bytes([OperationCode.SANITIZE, flags, 0, 0, 0, 0, 0, *length, 0])


@dataclass(frozen=True, slots=True)
class StartStopUnit:
    """START STOP UNIT (SBC-3 5.22): 6 bytes.

    Attributes:
        start: To the active power condition, otherwise to the stopped one, when `power_condition` is 0.
        load_or_eject: Load or eject the medium (LOEJ).
        power_condition: 4 bits.
        modifier: POWER CONDITION MODIFIER, 4 bits.
        no_flush: The logical unit need not write its caches to the medium.
        immed: The status comes as soon as the CDB is checked (IMMED).
    """

    start: bool = True
    load_or_eject: bool = False
    power_condition: int = 0
    modifier: int = 0
    no_flush: bool = False
    immed: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        what = self.power_condition << 4 | self.no_flush << 2 | self.load_or_eject << 1 | self.start
        return bytes([OperationCode.START_STOP_UNIT, self.immed, 0, self.modifier, what, 0])


@dataclass(frozen=True, slots=True)
class PreventAllowMediumRemoval:
    """PREVENT ALLOW MEDIUM REMOVAL (SPC-4 6.14): 6 bytes.

    Attributes:
        prevent: 2 bits; 0 allows.
    """

    prevent: int

    def encode(self) -> bytes:
        """The CDB."""
        return bytes([OperationCode.PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, self.prevent, 0])


@dataclass(frozen=True, slots=True)
class SendDiagnostic:
    """SEND DIAGNOSTIC (SPC-4 6.42): 6 bytes.

    Attributes:
        self_test: Run the default self-test (SELFTEST).
        self_test_code: The other self-test to run, 3 bits; 0 means none.
        parameter_list_length: Bytes of diagnostic pages, 16 bits.
        page_format: The parameters are diagnostic pages (PF).
        device_offline: The self-test may disturb other logical units (DEVOFFL).
        unit_offline: The self-test may disturb this logical unit (UNITOFFL).
    """

    self_test: bool = False
    self_test_code: int = 0
    parameter_list_length: int = 0
    page_format: bool = False
    device_offline: bool = False
    unit_offline: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        what = self.self_test_code << 5 | self.page_format << 4 | self.self_test << 2
        offline = self.device_offline << 1 | self.unit_offline
        length = self.parameter_list_length.to_bytes(2, "big")
        return bytes([OperationCode.SEND_DIAGNOSTIC, what | offline, 0, *length, 0])


@dataclass(frozen=True, slots=True)
class ModeSelect:
    """MODE SELECT(6) and (10) (SPC-4 6.11, 6.12).

    Attributes:
        parameter_list_length: 8 or 16 bits.
        size: The length of the CDB.
        page_format: The parameters are mode pages (PF).
        save: Keep the mode pages through a loss of power (SP).
    """

    parameter_list_length: int
    size: Literal[6, 10] = 10
    page_format: bool = True
    save: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        flags = self.page_format << 4 | self.save
        if self.size == 6:
            return bytes([OperationCode.MODE_SELECT_6, flags, 0, 0, self.parameter_list_length, 0])
        length = self.parameter_list_length.to_bytes(2, "big")
        return bytes([OperationCode.MODE_SELECT_10, flags, 0, 0, 0, 0, 0, *length, 0])


@dataclass(frozen=True, slots=True)
class ExtendedCopy:
    """EXTENDED COPY(LID1) (SPC-4 6.4): 16 bytes.

    Attributes:
        parameter_list_length: 32 bits.
    """

    parameter_list_length: int

    def encode(self) -> bytes:
        """The CDB."""
        head = bytes([OperationCode.EXTENDED_COPY, CopyOutServiceAction.EXTENDED_COPY_LID1]) + bytes(8)
        return head + self.parameter_list_length.to_bytes(4, "big") + bytes(2)


@dataclass(frozen=True, slots=True)
class ReceiveCopyResults:
    """RECEIVE COPY RESULTS; all its service actions have one layout (SPC-4 6.20 to 6.23): 16 bytes.

    Attributes:
        service_action: 5 bits; an int, so that reserved values survive.
        list_identifier: 8 bits.
        allocation_length: The size of the Data-In buffer, 32 bits.
    """

    service_action: int
    list_identifier: int
    allocation_length: int

    def encode(self) -> bytes:
        """The CDB."""
        head = bytes([OperationCode.RECEIVE_COPY_RESULTS, self.service_action, self.list_identifier])
        return head + bytes(7) + self.allocation_length.to_bytes(4, "big") + bytes(2)


@dataclass(frozen=True, slots=True)
class ReportSupportedOperationCodes:
    """REPORT SUPPORTED OPERATION CODES (SPC-4 6.35): 12 bytes, a service action of MAINTENANCE IN.

    Attributes:
        allocation_length: The size of the Data-In buffer, 32 bits.
        options: REPORTING OPTIONS, 3 bits: 0 for all commands, 1 to 3 for one command.
        operation_code: REQUESTED OPERATION CODE.
        service_action: REQUESTED SERVICE ACTION, 16 bits.
        timeouts: The command asks for command timeouts descriptors (RCTD).
    """

    allocation_length: int
    options: int = 0
    operation_code: int = 0
    service_action: int = 0
    timeouts: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        return (
            bytes(
                [
                    OperationCode.MAINTENANCE_IN,
                    MaintenanceInServiceAction.REPORT_SUPPORTED_OPERATION_CODES,
                    self.timeouts << 7 | self.options,
                    self.operation_code,
                ]
            )
            + self.service_action.to_bytes(2, "big")
            + self.allocation_length.to_bytes(4, "big")
            + bytes(2)
        )


@dataclass(frozen=True, slots=True)
class ReportSupportedTaskManagementFunctions:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36): 12 bytes, a service action of
    MAINTENANCE IN.

    Attributes:
        allocation_length: The size of the Data-In buffer, 32 bits.
        extended: The command asks for the extended parameter data (REPD).
    """

    allocation_length: int
    extended: bool = False

    def encode(self) -> bytes:
        """The CDB."""
        action = MaintenanceInServiceAction.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS
        head = bytes([OperationCode.MAINTENANCE_IN, action, self.extended << 7, 0, 0, 0])
        return head + self.allocation_length.to_bytes(4, "big") + bytes(2)


DeviceCdb = (
    ExtendedCopy
    | ModeSelect
    | PreventAllowMediumRemoval
    | ReadDefectData
    | ReceiveCopyResults
    | ReportSupportedOperationCodes
    | ReportSupportedTaskManagementFunctions
    | Sanitize
    | SendDiagnostic
    | StartStopUnit
    | Unmap
)


def _number(cdb: bytes, first: int, last: int) -> int:
    return int.from_bytes(cdb[first : last + 1], "big")


def decode_get_lba_status(cdb: bytes) -> GetLbaStatus:
    """The GET LBA STATUS command in a CDB of 16 bytes with this service action."""
    return GetLbaStatus(_number(cdb, 2, 9), _number(cdb, 10, 13))


def _sanitize(cdb: bytes) -> Sanitize:
    flags = cdb[1]
    if flags & 0x40 or any(cdb[2:7]):
        raise DecodeError("SANITIZE CDB", "reserved bits are set in a command that erases the medium")
    return Sanitize(flags & 0x1F, _number(cdb, 7, 8), flags & 0x80 != 0, flags & 0x20 != 0)


def _send_diagnostic(cdb: bytes) -> SendDiagnostic:
    what = cdb[1]
    return SendDiagnostic(
        what & 0x04 != 0,
        what >> 5,
        _number(cdb, 3, 4),
        what & 0x10 != 0,
        what & 0x02 != 0,
        what & 0x01 != 0,
    )


def _start_stop_unit(cdb: bytes) -> StartStopUnit:
    what = cdb[4]
    return StartStopUnit(
        what & 0x01 != 0,
        what & 0x02 != 0,
        what >> 4,
        cdb[3] & 0x0F,
        what & 0x04 != 0,
        cdb[1] & 0x01 != 0,
    )


def _read_defect_data(
    size: Literal[10, 12], request_at: int, length_at: tuple[int, int]
) -> Callable[[bytes], ReadDefectData]:
    def decode(cdb: bytes) -> ReadDefectData:
        request = cdb[request_at]
        index = _number(cdb, 2, 5) if size == 12 else 0
        return ReadDefectData(
            _number(cdb, *length_at), size, request & 0x7, request & 0x10 != 0, request & 0x08 != 0, index
        )

    return decode


def _mode_select(size: Literal[6, 10], length_at: tuple[int, int]) -> Callable[[bytes], ModeSelect]:
    return lambda cdb: ModeSelect(
        _number(cdb, *length_at), size, page_format=cdb[1] & 0x10 != 0, save=cdb[1] & 0x01 != 0
    )


def _extended_copy(cdb: bytes) -> ExtendedCopy | None:
    if cdb[1] & 0x1F != CopyOutServiceAction.EXTENDED_COPY_LID1:
        return None
    return ExtendedCopy(_number(cdb, 10, 13))


def _maintenance_in(
    cdb: bytes,
) -> ReportSupportedOperationCodes | ReportSupportedTaskManagementFunctions | None:
    match cdb[1] & 0x1F:
        case MaintenanceInServiceAction.REPORT_SUPPORTED_OPERATION_CODES:
            return ReportSupportedOperationCodes(
                _number(cdb, 6, 9), cdb[2] & 0x7, cdb[3], _number(cdb, 4, 5), cdb[2] & 0x80 != 0
            )
        case MaintenanceInServiceAction.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS:
            return ReportSupportedTaskManagementFunctions(_number(cdb, 6, 9), cdb[2] & 0x80 != 0)
    return None


DECODERS: dict[int, tuple[int, Callable[[bytes], DeviceCdb | None]]] = {
    OperationCode.MODE_SELECT_6: (6, _mode_select(6, (4, 4))),
    OperationCode.START_STOP_UNIT: (6, _start_stop_unit),
    OperationCode.SEND_DIAGNOSTIC: (6, _send_diagnostic),
    OperationCode.PREVENT_ALLOW_MEDIUM_REMOVAL: (6, lambda cdb: PreventAllowMediumRemoval(cdb[4] & 0x3)),
    OperationCode.READ_DEFECT_DATA_10: (10, _read_defect_data(10, 2, (7, 8))),
    OperationCode.UNMAP: (10, lambda cdb: Unmap(_number(cdb, 7, 8), cdb[1] & 0x01 != 0)),
    OperationCode.SANITIZE: (10, _sanitize),
    OperationCode.MODE_SELECT_10: (10, _mode_select(10, (7, 8))),
    OperationCode.EXTENDED_COPY: (16, _extended_copy),
    OperationCode.RECEIVE_COPY_RESULTS: (
        16,
        lambda cdb: ReceiveCopyResults(cdb[1] & 0x1F, cdb[2], _number(cdb, 10, 13)),
    ),
    OperationCode.MAINTENANCE_IN: (12, _maintenance_in),
    OperationCode.READ_DEFECT_DATA_12: (12, _read_defect_data(12, 1, (6, 9))),
}
"""For each operation code: the length that its CDB needs, and the function that decodes the CDB. The function
returns None for a service action without a type."""
