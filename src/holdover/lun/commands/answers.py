"""Answers that many commands share."""

from __future__ import annotations

import errno

from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

GOOD = Response(Status.GOOD)


def data_in(data: bytes | AdditionalSense, allocation_length: int) -> Response:
    """A response with parameter data, cut to the allocation length, or an ILLEGAL REQUEST."""
    if isinstance(data, AdditionalSense):
        return illegal(data)
    return Response(Status.GOOD, data[:allocation_length])


def illegal(additional: AdditionalSense) -> Response:
    """A response with ILLEGAL REQUEST and this additional sense code."""
    return check_condition(SenseKey.ILLEGAL_REQUEST, additional)


def written(asked: int | None) -> Response:
    """GOOD for a write; ``asked`` is the bytes that the CDB asked for, if another number of bytes came."""
    return GOOD if asked is None else Response(Status.GOOD, data_out_length=asked)


def miscompare(found: bytes, expected: bytes) -> Response:
    """MISCOMPARE; the INFORMATION field is the offset of the first different byte (SBC-3 5.2)."""
    at = next(at for at, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    additional = AdditionalSense.MISCOMPARE_DURING_VERIFY_OPERATION
    return check_condition(SenseKey.MISCOMPARE, additional, information=at)


def read_failure() -> Response:
    """The response when the medium cannot be read."""
    return check_condition(SenseKey.MEDIUM_ERROR, AdditionalSense.UNRECOVERED_READ_ERROR)


def write_failure(error: OSError) -> Response:
    """The response when the medium cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return check_condition(SenseKey.DATA_PROTECT, AdditionalSense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT)
    return check_condition(SenseKey.MEDIUM_ERROR, AdditionalSense.WRITE_ERROR)
