"""Answers to commands as PDUs."""

from __future__ import annotations

import pytest
from msgspec import structs

from holdover.iscsi.requests import ScsiCommand
from holdover.iscsi.responses import DataIn, ScsiResponse
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status
from tests.iscsi.pair import RawInitiator

READ = ScsiCommand(10, 0, bytes(16), 8192, 1, read=True)
GOOD = Response(Status.GOOD)


def test_data_in_carry_the_status() -> None:
    peer = RawInitiator(offers={"MaxRecvDataSegmentLength": "4096", "MaxBurstLength": "6000"})
    peer.send(READ)
    assert peer.commands()[0].command == Command(bytes(16), b"", 8192)
    peer.session.respond(10, Response(Status.GOOD, bytes(7000)))
    first, second, third = peer.answers()
    assert isinstance(first, DataIn)
    assert isinstance(second, DataIn)
    assert isinstance(third, DataIn)
    assert [(pdu.data_sn, pdu.offset, len(pdu.data)) for pdu in (first, second, third)] == [
        (0, 0, 4096),
        (1, 4096, 1904),
        (2, 6000, 1000),
    ]
    # A sequence ends at MaxBurstLength and at the end.
    assert [pdu.final for pdu in (first, second, third)] == [False, True, True]
    assert [pdu.has_status for pdu in (first, second, third)] == [False, False, True]
    assert (third.underflow, third.overflow, third.residual) == (True, False, 1192)


def test_more_data_than_there_is_room_for() -> None:
    peer = RawInitiator()
    peer.send(structs.replace(READ, expected_length=100))
    peer.session.respond(10, Response(Status.GOOD, bytes(128)))
    (answer,) = peer.answers()
    assert isinstance(answer, DataIn)
    assert (len(answer.data), answer.overflow, answer.residual) == (100, True, 28)


def test_a_status_with_sense_comes_after_the_data() -> None:
    peer = RawInitiator()
    peer.send(READ)
    peer.session.respond(10, Response(Status.CHECK_CONDITION, b"abcd", b"sense"))
    data, status = peer.answers()
    assert isinstance(data, DataIn)
    assert isinstance(status, ScsiResponse)
    assert (data.has_status, data.final) == (False, True)
    assert (status.status, status.sense, status.exp_data_sn) == (2, b"sense", 1)
    assert (status.underflow, status.residual) == (True, 8188)


def test_a_read_without_data_tells_what_is_missing() -> None:
    peer = RawInitiator()
    peer.send(READ)
    peer.session.respond(10, Response(Status.RESERVATION_CONFLICT))
    (answer,) = peer.answers()
    assert isinstance(answer, ScsiResponse)
    assert (answer.status, answer.underflow, answer.residual) == (0x18, True, 8192)


def test_stat_sn_moves_with_each_status() -> None:
    peer = RawInitiator()
    peer.send(structs.replace(READ, task_tag=1), structs.replace(READ, task_tag=2, cmd_sn=2))
    peer.session.respond(2, GOOD)
    peer.session.respond(1, GOOD)
    numbers = [pdu.stat_sn for pdu in peer.answers() if isinstance(pdu, ScsiResponse)]
    assert numbers == [peer.login.stat_sn + 1, peer.login.stat_sn + 2]


def test_the_residual_of_a_command_in_both_directions_is_that_of_its_reads() -> None:
    peer = RawInitiator()
    peer.send(structs.replace(READ, expected_length=3, data=b"abc", write=True, read_length=10))
    peer.session.respond(10, Response(Status.GOOD, b"1234"))
    data, status = peer.answers()
    assert isinstance(data, DataIn)
    assert isinstance(status, ScsiResponse)
    assert not data.has_status
    assert (status.read_underflow, status.read_residual, status.underflow, status.residual) == (
        True,
        6,
        False,
        0,
    )


@pytest.mark.parametrize(
    ("expected", "asked", "overflow", "underflow", "residual"),
    [
        (512, None, False, False, 0),
        (512, 512, False, False, 0),
        (0, 512, True, False, 512),
        (200, 512, True, False, 312),
        (1024, 512, False, True, 512),
        (1024, 0, False, True, 1024),
    ],
)
def test_a_write_tells_what_the_cdb_asked_for(
    expected: int, asked: int | None, overflow: bool, underflow: bool, residual: int
) -> None:
    peer = RawInitiator()
    peer.send(structs.replace(READ, read=False, write=True, expected_length=expected, data=bytes(expected)))
    peer.session.respond(10, Response(Status.GOOD, data_out_length=asked))
    (answer,) = peer.answers()
    assert isinstance(answer, ScsiResponse)
    assert (answer.overflow, answer.underflow, answer.residual) == (overflow, underflow, residual)


def test_a_command_in_both_directions_has_a_residual_for_each() -> None:
    peer = RawInitiator()
    peer.send(structs.replace(READ, expected_length=3, data=b"abc", write=True, read_length=10))
    peer.session.respond(10, Response(Status.GOOD, b"123456789012", data_out_length=5))
    _, status = peer.answers()
    assert isinstance(status, ScsiResponse)
    assert (status.overflow, status.underflow, status.residual) == (True, False, 2)
    assert (status.read_overflow, status.read_underflow, status.read_residual) == (True, False, 2)
