"""Answers to commands as PDUs."""

from __future__ import annotations

from dataclasses import replace

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
    peer.send(replace(READ, expected_length=100))
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
    peer.send(replace(READ, task_tag=1), replace(READ, task_tag=2, cmd_sn=2))
    peer.session.respond(2, GOOD)
    peer.session.respond(1, GOOD)
    numbers = [pdu.stat_sn for pdu in peer.answers() if isinstance(pdu, ScsiResponse)]
    assert numbers == [peer.login.stat_sn + 1, peer.login.stat_sn + 2]


def test_the_residual_of_a_command_in_both_directions_is_that_of_its_reads() -> None:
    peer = RawInitiator()
    peer.send(replace(READ, expected_length=3, data=b"abc", write=True, read_length=10))
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
