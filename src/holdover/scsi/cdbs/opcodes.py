"""Operation codes and service actions (SPC-4 6, SBC-3 5, SPC-4 annex E)."""

from __future__ import annotations

from enum import IntEnum


class OperationCode(IntEnum):
    """The first byte of a CDB."""

    TEST_UNIT_READY = 0x00
    REZERO_UNIT = 0x01
    REQUEST_SENSE = 0x03
    FORMAT_UNIT = 0x04
    REASSIGN_BLOCKS = 0x07
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    RESERVE_6 = 0x16
    RELEASE_6 = 0x17
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    RECEIVE_DIAGNOSTIC_RESULTS = 0x1C
    SEND_DIAGNOSTIC = 0x1D
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    WRITE_AND_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    PRE_FETCH_10 = 0x34
    SYNCHRONIZE_CACHE_10 = 0x35
    READ_DEFECT_DATA_10 = 0x37
    WRITE_BUFFER = 0x3B
    READ_BUFFER_10 = 0x3C
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    SANITIZE = 0x48
    LOG_SELECT = 0x4C
    LOG_SENSE = 0x4D
    MODE_SELECT_10 = 0x55
    RESERVE_10 = 0x56
    RELEASE_10 = 0x57
    MODE_SENSE_10 = 0x5A
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    EXTENDED_COPY = 0x83
    RECEIVE_COPY_RESULTS = 0x84
    ACCESS_CONTROL_IN = 0x86
    ACCESS_CONTROL_OUT = 0x87
    READ_16 = 0x88
    COMPARE_AND_WRITE = 0x89
    WRITE_16 = 0x8A
    ORWRITE_16 = 0x8B
    READ_ATTRIBUTE = 0x8C
    WRITE_ATTRIBUTE = 0x8D
    WRITE_AND_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    PRE_FETCH_16 = 0x90
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    MAINTENANCE_IN = 0xA3
    MAINTENANCE_OUT = 0xA4
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    WRITE_AND_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF
    READ_DEFECT_DATA_12 = 0xB7


class ServiceActionIn16(IntEnum):
    """Service actions of SERVICE ACTION IN(16) (SBC-3 5)."""

    READ_CAPACITY_16 = 0x10
    GET_LBA_STATUS = 0x12


class MaintenanceInServiceAction(IntEnum):
    """Service actions of MAINTENANCE IN (SPC-4 annex E.3.5)."""

    REPORT_IDENTIFYING_INFORMATION = 0x05
    REPORT_TARGET_PORT_GROUPS = 0x0A
    REPORT_ALIASES = 0x0B
    REPORT_SUPPORTED_OPERATION_CODES = 0x0C
    REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS = 0x0D
    REPORT_PRIORITY = 0x0E
    REPORT_TIMESTAMP = 0x0F
    MANAGEMENT_PROTOCOL_IN = 0x10


class MaintenanceOutServiceAction(IntEnum):
    """Service actions of MAINTENANCE OUT (SPC-4 annex E.3.6)."""

    SET_IDENTIFYING_INFORMATION = 0x06
    SET_TARGET_PORT_GROUPS = 0x0A
    CHANGE_ALIASES = 0x0B
    REMOVE_I_T_NEXUS = 0x0C
    SET_PRIORITY = 0x0E
    SET_TIMESTAMP = 0x0F
    MANAGEMENT_PROTOCOL_OUT = 0x10


class CopyOutServiceAction(IntEnum):
    """Service actions of THIRD-PARTY COPY OUT, operation code EXTENDED COPY (SPC-4 5.16.3)."""

    EXTENDED_COPY_LID1 = 0x00
    EXTENDED_COPY_LID4 = 0x01
    POPULATE_TOKEN = 0x10
    WRITE_USING_TOKEN = 0x11
    COPY_OPERATION_ABORT = 0x1C


class CopyInServiceAction(IntEnum):
    """Service actions of THIRD-PARTY COPY IN, operation code RECEIVE COPY RESULTS (SPC-4 5.16.3)."""

    COPY_STATUS_LID1 = 0x00
    RECEIVE_DATA_LID1 = 0x01
    OPERATING_PARAMETERS = 0x03
    FAILED_SEGMENT_DETAILS_LID1 = 0x04


class SanitizeServiceAction(IntEnum):
    """Service actions of SANITIZE (SBC-3 5.21.2)."""

    OVERWRITE = 0x01
    BLOCK_ERASE = 0x02
    CRYPTOGRAPHIC_ERASE = 0x03
    EXIT_FAILURE_MODE = 0x1F


class InServiceAction(IntEnum):
    """Service actions of PERSISTENT RESERVE IN (SPC-4 6.15.1)."""

    READ_KEYS = 0x00
    READ_RESERVATION = 0x01
    REPORT_CAPABILITIES = 0x02
    READ_FULL_STATUS = 0x03


class OutServiceAction(IntEnum):
    """Service actions of PERSISTENT RESERVE OUT (SPC-4 6.16.2)."""

    REGISTER = 0x00
    RESERVE = 0x01
    RELEASE = 0x02
    CLEAR = 0x03
    PREEMPT = 0x04
    PREEMPT_AND_ABORT = 0x05
    REGISTER_AND_IGNORE_EXISTING_KEY = 0x06
    REGISTER_AND_MOVE = 0x07


class ReservationScope(IntEnum):
    """Scope of a persistent reservation (SPC-4 6.15.3.3); all other scopes are obsolete."""

    LU = 0x0


class ReservationType(IntEnum):
    """Type of a persistent reservation (SPC-4 6.15.3.4)."""

    WRITE_EXCLUSIVE = 0x1
    EXCLUSIVE_ACCESS = 0x3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 0x5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 0x6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 0x7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 0x8

    @property
    def all_registrants(self) -> bool:
        """Whether every registrant is a reservation holder (SPC-4 5.13.10)."""
        return self >= ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS

    @property
    def registrants_only(self) -> bool:
        """Whether registrants that do not hold the reservation keep their access."""
        return self in (
            ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
            ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
        )

    @property
    def short_name(self) -> str:
        """The name that the command line uses: we, ea, wero, earo, wear, eaar."""
        return _SHORT_NAMES[self]


_SHORT_NAMES = {
    ReservationType.WRITE_EXCLUSIVE: "we",
    ReservationType.EXCLUSIVE_ACCESS: "ea",
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: "wero",
    ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: "earo",
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS: "wear",
    ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: "eaar",
}
