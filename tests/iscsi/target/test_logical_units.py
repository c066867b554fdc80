"""What the target answers without a logical unit."""

from __future__ import annotations

import pytest

from holdover.iscsi.target.logical_units import answer_for_missing, report_luns
from holdover.scsi.command import Command
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status


def report(allocation_length: int, select_report: int = 0) -> Command:
    return Command(bytes([0xA0, 0, select_report, 0, 0, 0, *allocation_length.to_bytes(4), 0, 0]))


def test_report_luns_lists_the_numbers_in_order() -> None:
    data = report_luns(report(4096), [300, 0, 2]).data_in
    assert data.hex(" ", 8) == "0000001800000000 0000000000000000 0002000000000000 412c000000000000"


@pytest.mark.parametrize("length", [16, 17, 24, 31])
def test_report_luns_is_cut_to_the_allocation_length(length: int) -> None:
    whole = report_luns(report(4096), [0, 1, 2]).data_in
    assert report_luns(report(length), [0, 1, 2]).data_in == whole[:length]


def test_there_are_no_well_known_logical_units() -> None:
    assert report_luns(report(16, 1), [0, 1]).data_in == bytes(8)
    assert len(report_luns(report(64, 2), [0, 1]).data_in) == 24


@pytest.mark.parametrize("command", [report(15), report(64, 3), Command(bytes([0xA0]) + bytes(5))])
def test_report_luns_that_is_not_allowed(command: Command) -> None:
    assert "INVALID FIELD IN CDB" in describe_response(report_luns(command, [0]))


def test_inquiry_of_what_is_not_there() -> None:
    response = answer_for_missing(Command(bytes([0x12, 0, 0, 0, 96, 0])))
    assert response.status is Status.GOOD
    assert len(response.data_in) == 36
    assert response.data_in[0] == 0x7F
    assert answer_for_missing(Command(bytes([0x12, 0, 0, 0, 5, 0]))).data_in == response.data_in[:5]


def test_request_sense_of_what_is_not_there() -> None:
    fixed = answer_for_missing(Command(bytes([0x03, 0, 0, 0, 18, 0])))
    assert fixed.status is Status.GOOD
    assert (fixed.data_in[0], fixed.data_in[2], fixed.data_in[12]) == (0x70, 5, 0x25)
    assert answer_for_missing(Command(bytes([0x03, 1, 0, 0, 18, 0]))).data_in[:3] == b"\x72\x05\x25"


@pytest.mark.parametrize("cdb", [bytes(6), b"", bytes([0x12, 1, 0x83, 0, 96, 0]), bytes([0x12]), bytes([3])])
def test_all_else_is_not_supported(cdb: bytes) -> None:
    assert "LOGICAL UNIT NOT SUPPORTED" in describe_response(answer_for_missing(Command(cdb)))
