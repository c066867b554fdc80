"""Sense data: the reason why a command failed (SPC-4 4.5), in fixed and descriptor format.

Response codes 70h and 71h mean fixed format, 72h and 73h mean descriptor format. 71h and 73h report an error
of an earlier command (a deferred error).
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from holdover.scsi.command import Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.status import Status

_STRUCTURE = "sense data"
_FIXED_LENGTH = 18


class SenseKey(IntEnum):
    """The kind of error (SPC-4 4.5.6 table 43)."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


class AdditionalSense(IntEnum):
    """Additional sense code << 8 | qualifier (SPC-4 4.5.6 table 44 and annex F.2)."""

    NO_ADDITIONAL_SENSE = 0x0000
    LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE = 0x0400
    LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY = 0x0401
    LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION = 0x040A
    LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED = 0x0402
    LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED = 0x0403
    LOGICAL_UNIT_NOT_READY_SANITIZE_IN_PROGRESS = 0x041B
    LOGICAL_UNIT_COMMUNICATION_FAILURE = 0x0800
    LOGICAL_UNIT_COMMUNICATION_TIME_OUT = 0x0801
    WRITE_ERROR = 0x0C00
    COPY_TARGET_DEVICE_NOT_REACHABLE = 0x0D02
    INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT = 0x0E03
    UNRECOVERED_READ_ERROR = 0x1100
    PARAMETER_LIST_LENGTH_ERROR = 0x1A00
    SYNCHRONOUS_DATA_TRANSFER_ERROR = 0x1B00
    MISCOMPARE_DURING_VERIFY_OPERATION = 0x1D00
    INVALID_COMMAND_OPERATION_CODE = 0x2000
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE = 0x2100
    INVALID_FIELD_IN_CDB = 0x2400
    LOGICAL_UNIT_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETER_LIST = 0x2600
    PARAMETER_NOT_SUPPORTED = 0x2601
    PARAMETER_VALUE_INVALID = 0x2602
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION = 0x2604
    TOO_MANY_TARGET_DESCRIPTORS = 0x2606
    UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE = 0x2607
    TOO_MANY_SEGMENT_DESCRIPTORS = 0x2608
    UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE = 0x2609
    COPY_SEGMENT_GRANULARITY_VIOLATION = 0x260D
    WRITE_PROTECTED = 0x2700
    HARDWARE_WRITE_PROTECTED = 0x2701
    SPACE_ALLOCATION_FAILED_WRITE_PROTECT = 0x2707
    POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED = 0x2900
    POWER_ON_OCCURRED = 0x2901
    SCSI_BUS_RESET_OCCURRED = 0x2902
    BUS_DEVICE_RESET_FUNCTION_OCCURRED = 0x2903
    DEVICE_INTERNAL_RESET = 0x2904
    I_T_NEXUS_LOSS_OCCURRED = 0x2907
    PARAMETERS_CHANGED = 0x2A00
    MODE_PARAMETERS_CHANGED = 0x2A01
    RESERVATIONS_PREEMPTED = 0x2A03
    RESERVATIONS_RELEASED = 0x2A04
    REGISTRATIONS_PREEMPTED = 0x2A05
    CAPACITY_DATA_HAS_CHANGED = 0x2A09
    COMMAND_SEQUENCE_ERROR = 0x2C00
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = 0x2F00
    SANITIZE_COMMAND_FAILED = 0x3103
    SAVING_PARAMETERS_NOT_SUPPORTED = 0x3900
    MEDIUM_NOT_PRESENT = 0x3A00
    INQUIRY_DATA_HAS_CHANGED = 0x3F03
    REPORTED_LUNS_DATA_HAS_CHANGED = 0x3F0E
    INTERNAL_TARGET_FAILURE = 0x4400
    COMMAND_PHASE_ERROR = 0x4A00
    DATA_PHASE_ERROR = 0x4B00
    OVERLAPPED_COMMANDS_ATTEMPTED = 0x4E00
    INSUFFICIENT_RESOURCES = 0x5503
    INSUFFICIENT_REGISTRATION_RESOURCES = 0x5504
    LOGICAL_UNIT_ACCESS_NOT_AUTHORIZED = 0x7471

    @property
    def label(self) -> str:
        """The text of this code in the standard."""
        return _LABELS.get(self, self.name.replace("_", " "))


# The codes whose text in the standard has characters that a Python name cannot have.
_LABELS = {
    AdditionalSense.NO_ADDITIONAL_SENSE: "NO ADDITIONAL SENSE INFORMATION",
    AdditionalSense.LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE: (
        "LOGICAL UNIT NOT READY, CAUSE NOT REPORTABLE"
    ),
    AdditionalSense.LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED: (
        "LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED"
    ),
    AdditionalSense.LOGICAL_UNIT_NOT_READY_SANITIZE_IN_PROGRESS: (
        "LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS"
    ),
    AdditionalSense.LOGICAL_UNIT_NOT_READY_MANUAL_INTERVENTION_REQUIRED: (
        "LOGICAL UNIT NOT READY, MANUAL INTERVENTION REQUIRED"
    ),
    AdditionalSense.LOGICAL_UNIT_COMMUNICATION_TIME_OUT: "LOGICAL UNIT COMMUNICATION TIME-OUT",
    AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED: (
        "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED"
    ),
    AdditionalSense.I_T_NEXUS_LOSS_OCCURRED: "I_T NEXUS LOSS OCCURRED",
}


class Sense(msgspec.Struct, frozen=True, gc=False):
    """The content of sense data.

    Attributes:
        key: The sense key.
        additional: Additional sense code << 8 | qualifier; an int, so that codes without a name are kept.
        information: The INFORMATION field, or None when it is not valid.
        deferred: Whether the error belongs to an earlier command.
        command_specific: The COMMAND-SPECIFIC INFORMATION field.
        key_specific: The 23 bits after SKSV (field pointer, progress indication), or None without them.
    """

    key: SenseKey
    additional: int = AdditionalSense.NO_ADDITIONAL_SENSE
    information: int | None = None
    deferred: bool = False
    command_specific: int = 0
    key_specific: int | None = None

    def encode(self, descriptor_format: bool = False) -> bytes:
        """Sense data as on the wire: 18 bytes in fixed format, 8 and more in descriptor format.

        Fixed format has four bytes for INFORMATION and four for COMMAND-SPECIFIC INFORMATION; a value that
        needs more is left out (SPC-4 4.5.3).
        """
        return self._encode_descriptors() if descriptor_format else self._encode_fixed()

    def _encode_fixed(self) -> bytes:
        data = bytearray(_FIXED_LENGTH)
        data[0] = 0x71 if self.deferred else 0x70
        data[2] = self.key
        if self.information is not None and self.information < 1 << 32:
            data[0] |= 0x80
            data[3:7] = self.information.to_bytes(4, "big")
        data[7] = _FIXED_LENGTH - 8
        if self.command_specific < 1 << 32:
            data[8:12] = self.command_specific.to_bytes(4, "big")
        data[12:14] = self.additional.to_bytes(2, "big")
        if self.key_specific is not None:
            data[15:18] = (0x800000 | self.key_specific).to_bytes(3, "big")
        return bytes(data)

    def _encode_descriptors(self) -> bytes:
        descriptors = b""
        if self.information is not None:
            descriptors += bytes([0x00, 0x0A, 0x80, 0]) + self.information.to_bytes(8, "big")
        if self.command_specific:
            descriptors += bytes([0x01, 0x0A, 0, 0]) + self.command_specific.to_bytes(8, "big")
        if self.key_specific is not None:
            descriptors += (
                bytes([0x02, 0x06, 0, 0]) + (0x800000 | self.key_specific).to_bytes(3, "big") + b"\0"
            )
        header = bytes([0x73 if self.deferred else 0x72, self.key]) + self.additional.to_bytes(2, "big")
        return header + bytes([0, 0, 0, len(descriptors)]) + descriptors

    def describe(self) -> str:
        """The sense data in words and numbers: "ILLEGAL REQUEST, INVALID FIELD IN CDB (5h 24h/00h)"."""
        words = self.key.name.replace("_", " ")
        try:
            label = AdditionalSense(self.additional).label
        except ValueError:
            label = ""
        code, qualifier = divmod(self.additional, 256)
        numbers = f"({self.key:X}h {code:02X}h/{qualifier:02X}h)"
        return f"{words}, {label} {numbers}" if label else f"{words} {numbers}"


def decode_sense(data: bytes) -> Sense:
    """The sense data in bytes of either format. Fields that a short buffer cut off are absent.

    Raises:
        DecodeError: The response code is not 70h to 73h, or the sense key is cut off or reserved.
    """
    if not data:
        raise DecodeError(_STRUCTURE, "no bytes")
    response_code = data[0] & 0x7F
    if response_code in (0x70, 0x71):
        return _decode_fixed(data, deferred=response_code == 0x71)
    if response_code in (0x72, 0x73):
        return _decode_descriptors(data, deferred=response_code == 0x73)
    raise DecodeError(_STRUCTURE, f"response code {response_code:02X}h is not 70h to 73h", 0)


def _decode_key(data: bytes, offset: int) -> SenseKey:
    if len(data) <= offset:
        raise DecodeError(_STRUCTURE, "ends before the sense key", offset)
    try:
        return SenseKey(data[offset] & 0x0F)
    except ValueError:
        raise DecodeError(_STRUCTURE, f"sense key {data[offset] & 0x0F:X}h is reserved", offset) from None


def _decode_fixed(data: bytes, deferred: bool) -> Sense:
    key = _decode_key(data, 2)
    if len(data) >= 8:
        data = data[: 8 + data[7]]
    return Sense(
        key,
        additional=int.from_bytes(data[12:14], "big") if len(data) >= 14 else 0,
        information=int.from_bytes(data[3:7], "big") if data[0] & 0x80 and len(data) >= 7 else None,
        deferred=deferred,
        command_specific=int.from_bytes(data[8:12], "big") if len(data) >= 12 else 0,
        key_specific=_key_specific(data[15:18]),
    )


def _decode_descriptors(data: bytes, deferred: bool) -> Sense:
    key = _decode_key(data, 1)
    information, command_specific, key_specific = None, 0, None
    end = min(len(data), 8 + data[7]) if len(data) >= 8 else 0
    at = 8
    while at + 2 <= end:
        kind, length = data[at], data[at + 1]
        body = data[at : at + 2 + length] if at + 2 + length <= end else b""
        if kind == 0x00 and len(body) >= 12 and body[2] & 0x80:
            information = int.from_bytes(body[4:12], "big")
        elif kind == 0x01 and len(body) >= 12:
            command_specific = int.from_bytes(body[4:12], "big")
        elif kind == 0x02 and len(body) >= 7:
            key_specific = _key_specific(body[4:7])
        at += 2 + length
    return Sense(
        key,
        additional=int.from_bytes(data[2:4], "big") if len(data) >= 4 else 0,
        information=information,
        deferred=deferred,
        command_specific=command_specific,
        key_specific=key_specific,
    )


def _key_specific(field: bytes) -> int | None:
    if len(field) < 3 or not field[0] & 0x80:
        return None
    return int.from_bytes(field, "big") & 0x7FFFFF


def check_condition(
    key: SenseKey,
    additional: AdditionalSense = AdditionalSense.NO_ADDITIONAL_SENSE,
    *,
    information: int | None = None,
    key_specific: int | None = None,
) -> Response:
    """A response with CHECK CONDITION and sense data in fixed format."""
    sense = Sense(key, additional, information=information, key_specific=key_specific)
    return Response(Status.CHECK_CONDITION, sense=sense.encode())


def is_unit_attention(response: Response) -> bool:
    """Whether the logical unit reported a unit attention in place of carrying out the command (SAM-5 5.14).

    Never raises.
    """
    if response.status is not Status.CHECK_CONDITION:
        return False
    try:
        sense = decode_sense(response.sense)
    except DecodeError:
        return False
    return sense.key is SenseKey.UNIT_ATTENTION and not sense.deferred


_UNDONE_STATUS = frozenset(
    {Status.BUSY, Status.RESERVATION_CONFLICT, Status.TASK_SET_FULL, Status.ACA_ACTIVE}
)
_UNDONE_KEYS = frozenset(
    {SenseKey.NOT_READY, SenseKey.ILLEGAL_REQUEST, SenseKey.UNIT_ATTENTION, SenseKey.DATA_PROTECT}
)
"""Any other response but GOOD proves nothing."""


def is_undone(response: Response) -> bool:
    """Whether a response proves that its command changed nothing. Never raises."""
    if response.status is not Status.CHECK_CONDITION:
        return response.status in _UNDONE_STATUS
    try:
        sense = decode_sense(response.sense)
    except DecodeError:
        return False
    return sense.key in _UNDONE_KEYS


def describe_response(response: Response) -> str:
    """A response in words: "GOOD", "CHECK CONDITION: UNIT ATTENTION, ... (6h 2Ah/03h)"."""
    words = response.status.name.replace("_", " ")
    if response.status is not Status.CHECK_CONDITION:
        return words
    try:
        return f"{words}: {decode_sense(response.sense).describe()}"
    except DecodeError as error:
        return f"{words} ({error})"
