"""Data-In at the initiator."""

from __future__ import annotations

import pytest

from holdover.iscsi.errors import ProtocolError
from holdover.iscsi.initiator.task import InitiatorTask
from holdover.iscsi.responses import DataIn
from holdover.scsi.command import Command
from holdover.scsi.status import Status


def test_pieces_come_in_order_and_within_the_buffer() -> None:
    task = InitiatorTask(1, 0, Command(bytes(6), data_in_length=5))
    task.take(DataIn(1, 0, 0, b"abc", 0, 0))
    task.take(DataIn(1, 1, 3, b"", 0, 0))
    for wrong in (DataIn(1, 1, 3, b"d", 0, 0), DataIn(1, 2, 4, b"d", 0, 0), DataIn(1, 2, 3, b"def", 0, 0)):
        with pytest.raises(ProtocolError):
            task.take(wrong)
    task.take(DataIn(1, 2, 3, b"de", 0, 0))
    assert task.response(Status.GOOD, b"", 0, 0).data_in == b"abcde"
