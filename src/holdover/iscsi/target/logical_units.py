"""The answers of the target itself, which concern no single logical unit (SAM-5 4.7, SPC-4 6.33)."""

from __future__ import annotations

from collections.abc import Iterable

from holdover.iscsi.names import encode_lun
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, Sense, SenseKey, check_condition
from holdover.scsi.status import Status

_NOT_CONNECTED = 0x7F
"""Peripheral qualifier 011b, device type 1Fh: there is no such logical unit (SPC-4 6.6.2)."""
_MIN_ALLOCATION = 16
_WELL_KNOWN_ONLY = 1
_SELECT_REPORTS = (0, _WELL_KNOWN_ONLY, 2)


def report_luns(command: Command, numbers: Iterable[int]) -> Response:
    """The answer of REPORT LUNS for an inventory of logical unit numbers."""
    cdb = command.cdb
    allocation_length = int.from_bytes(cdb[6:10])
    if len(cdb) < 12 or cdb[2] not in _SELECT_REPORTS or allocation_length < _MIN_ALLOCATION:
        return check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
    entries = b""
    if cdb[2] != _WELL_KNOWN_ONLY:
        entries = b"".join(encode_lun(number).to_bytes(8) for number in sorted(numbers))
    data = len(entries).to_bytes(4) + bytes(4) + entries
    return Response(Status.GOOD, data[:allocation_length])


def answer_for_missing(command: Command) -> Response:
    """The answer to any command for a logical unit that does not exist (SPC-4 6.6.2, 6.39; SAM-5 4.7.4)."""
    sense = Sense(SenseKey.ILLEGAL_REQUEST, AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED)
    cdb = command.cdb
    if command.opcode == OperationCode.INQUIRY and len(cdb) >= 6 and not cdb[1] & 0x01 and not cdb[2]:
        # Version SPC-4, response data format 2, 31 more bytes, all of them blank.
        data = bytes((_NOT_CONNECTED, 0, 0x06, 0x02, 31, 0, 0, 0)) + b" " * 28
        return Response(Status.GOOD, data[: int.from_bytes(cdb[3:5])])
    if command.opcode == OperationCode.REQUEST_SENSE and len(cdb) >= 6:
        data = sense.encode(descriptor_format=bool(cdb[1] & 0x01))
        return Response(Status.GOOD, data[: cdb[4]])
    return Response(Status.CHECK_CONDITION, sense=sense.encode())
