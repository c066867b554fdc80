"""Responses are values."""

from __future__ import annotations

from holdover.scsi.command import Response
from holdover.scsi.status import Status


def test_two_responses_are_equal_or_they_differ() -> None:
    good = Response(Status.GOOD)
    assert good == Response(Status.GOOD, carried=("one", "two"))
    assert (good != Response(Status.GOOD)) is False
    assert good != Response(Status.BUSY)
    assert good != "GOOD"
