"""A command's Data-Out at the target."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import NO_TAG
from holdover.iscsi.requests import DataOut, ScsiCommand
from holdover.iscsi.target.protocol.sense import INCORRECT_AMOUNT_OF_DATA, UNEXPECTED_UNSOLICITED_DATA
from holdover.iscsi.target.protocol.task import TargetTask
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import describe_response

PARAMETERS = Parameters(initial_r2t=False, first_burst_length=8, max_burst_length=16)
WRITE = ScsiCommand(1, 0, bytes(16), 12, 0, write=True)


def task(pdu: ScsiCommand, parameters: Parameters = PARAMETERS) -> TargetTask:
    return TargetTask(pdu, parameters, 64, 64)


def data_out(target_tag: int, data_sn: int, offset: int, data: bytes, final: bool) -> DataOut:
    return DataOut(1, target_tag, 0, data_sn, offset, data, final)


def test_immediate_unsolicited_and_solicited_data_become_one_buffer() -> None:
    write = task(structs.replace(WRITE, data=b"abc", final=False))
    assert write.awaits_unsolicited
    write.receive(data_out(NO_TAG, 0, 3, b"de", False))
    write.receive(data_out(NO_TAG, 1, 5, b"f", True))
    assert not write.awaits_unsolicited
    assert (write.complete, write.received, write.requested) == (False, 6, 6)
    assert write.request(77, 6) == 6
    write.receive(data_out(77, 0, 6, b"ghi", False))
    write.receive(data_out(77, 1, 9, b"jkl", True))
    assert write.complete
    assert write.command() == Command(bytes(16), b"abcdefghijkl", 0)


def test_several_requests_may_be_open() -> None:
    write = task(WRITE)
    assert (write.request(1, 8), write.request(2, 4)) == (0, 8)
    assert write.open_sequences == 2
    write.receive(data_out(1, 0, 0, b"12345678", True))
    write.receive(data_out(2, 0, 8, b"abcd", True))
    assert write.command().data_out == b"12345678abcd"


@pytest.mark.parametrize(
    "wrong",
    [
        data_out(9, 0, 0, b"abcd", True),
        data_out(NO_TAG, 0, 0, b"abcd", True),
        data_out(5, 1, 0, b"abcd", True),
        data_out(5, 0, 4, b"abcd", True),
        data_out(5, 0, 0, b"abcde", True),
        data_out(5, 0, 0, b"abc", True),
    ],
)
def test_data_out_of_turn_fail_the_command(wrong: DataOut) -> None:
    write = task(WRITE)
    write.request(5, 4)
    write.receive(wrong)
    assert write.failure is INCORRECT_AMOUNT_OF_DATA
    assert write.complete


def test_data_that_nobody_asked_for_fail_the_command() -> None:
    write = task(WRITE)
    write.receive(data_out(NO_TAG, 0, 0, b"abc", True))
    assert write.failure is UNEXPECTED_UNSOLICITED_DATA


@pytest.mark.parametrize(
    ("pdu", "parameters", "failure"),
    [
        (structs.replace(WRITE, data=b"abc", write=False), PARAMETERS, UNEXPECTED_UNSOLICITED_DATA),
        (
            structs.replace(WRITE, data=b"abc"),
            replace(PARAMETERS, immediate_data=False),
            UNEXPECTED_UNSOLICITED_DATA,
        ),
        (
            structs.replace(WRITE, final=False),
            replace(PARAMETERS, initial_r2t=True),
            UNEXPECTED_UNSOLICITED_DATA,
        ),
        (structs.replace(WRITE, final=False, write=False), PARAMETERS, UNEXPECTED_UNSOLICITED_DATA),
        (structs.replace(WRITE, data=b"123456789"), PARAMETERS, INCORRECT_AMOUNT_OF_DATA),
        (structs.replace(WRITE, expected_length=2, data=b"123"), PARAMETERS, INCORRECT_AMOUNT_OF_DATA),
    ],
)
def test_commands_that_break_what_was_negotiated(
    pdu: ScsiCommand, parameters: Parameters, failure: Response
) -> None:
    write = task(pdu, parameters)
    assert write.failure is failure
    # Data that are on their way do not matter any more.
    write.receive(data_out(NO_TAG, 0, 0, b"abc", True))
    assert write.failure is failure


def test_a_buffer_beyond_the_limit_is_refused() -> None:
    failure = task(structs.replace(WRITE, expected_length=65)).failure
    assert failure is not None
    assert "INVALID FIELD IN CDB" in describe_response(failure)


def test_buffer_lengths() -> None:
    read = task(ScsiCommand(1, 0, bytes(16), 12, 0, read=True))
    assert (read.read_length, read.write_length, read.complete) == (12, 0, True)
    both = task(ScsiCommand(1, 0, bytes(16), 12, 0, read=True, write=True, read_length=5))
    assert (both.read_length, both.write_length) == (5, 12)
    assert task(ScsiCommand(1, 0, bytes(16), 12, 0, read=True, write=True)).read_length == 0
    assert task(ScsiCommand(1, 0, bytes(16), 12, 0)).complete
