"""Answers that many commands share."""

from __future__ import annotations

import errno

from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

__all__ = ["GOOD", "data_in", "illegal", "miscompare", "read_failure", "write_failure", "written"]

GOOD = Response(Status.GOOD)


def data_in(data: bytes | AdditionalSense, allocation_length: int) -> Response:
    """Parameter data, cut to the allocation length, or an ILLEGAL REQUEST."""
    if isinstance(data, AdditionalSense):
        return illegal(data)
    return Response(Status.GOOD, data[:allocation_length])


def illegal(additional: AdditionalSense) -> Response:
    """An ILLEGAL REQUEST."""
    return check_condition(SenseKey.ILLEGAL_REQUEST, additional)


def written(asked: int | None) -> Response:
    """GOOD for a write; ``asked`` where the CDB asked for another number of bytes than were there."""
    return GOOD if asked is None else Response(Status.GOOD, data_out_length=asked)


def miscompare(found: bytes, expected: bytes) -> Response:
    """MISCOMPARE; the INFORMATION field is the offset of the first byte that differs (SBC-3 5.2)."""
    at = next(at for at, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    additional = AdditionalSense.MISCOMPARE_DURING_VERIFY_OPERATION
    return check_condition(SenseKey.MISCOMPARE, additional, information=at)


def read_failure() -> Response:
    """The medium did not give what it should hold."""
    return check_condition(SenseKey.MEDIUM_ERROR, AdditionalSense.UNRECOVERED_READ_ERROR)


def write_failure(error: OSError) -> Response:
    """The medium did not take what it was given."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return check_condition(SenseKey.DATA_PROTECT, AdditionalSense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT)
    return check_condition(SenseKey.MEDIUM_ERROR, AdditionalSense.WRITE_ERROR)
