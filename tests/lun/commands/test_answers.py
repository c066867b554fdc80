from __future__ import annotations

import errno

import pytest

from holdover.lun.commands.answers import data_in, illegal, miscompare, read_failure, write_failure
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status
from tests.lun.support import sense_of


def test_data_are_cut_or_refused() -> None:
    assert data_in(b"abcd", 3) == Response(Status.GOOD, b"abc")
    refused = data_in(AdditionalSense.INVALID_FIELD_IN_CDB, 3)
    assert refused == illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    assert sense_of(refused) == (SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


@pytest.mark.parametrize("at", [0, 1, 511])
def test_the_first_byte_that_differs(at: int) -> None:
    other = bytes(at) + b"x" * (512 - at)
    assert decode_sense(miscompare(bytes(512), other).sense).information == at


@pytest.mark.parametrize(
    ("number", "key"),
    [
        (errno.ENOSPC, SenseKey.DATA_PROTECT),
        (errno.EDQUOT, SenseKey.DATA_PROTECT),
        (errno.EIO, SenseKey.MEDIUM_ERROR),
        (errno.EBADF, SenseKey.MEDIUM_ERROR),
    ],
)
def test_what_a_medium_says(number: int, key: SenseKey) -> None:
    assert sense_of(write_failure(OSError(number, "")))[0] is key
    assert sense_of(read_failure())[0] is SenseKey.MEDIUM_ERROR
