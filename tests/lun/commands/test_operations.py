from __future__ import annotations

import pytest

from holdover.lun.access import Standing as Nexus
from holdover.lun.access import allowed
from holdover.lun.commands.operations import OPERATIONS, READY, WRITING, report_supported
from holdover.scsi.cdbs.cdb import OtherCdb, ReportSupportedOperationCodes, decode_cdb
from holdover.scsi.cdbs.opcodes import InServiceAction, ReservationType
from holdover.scsi.cdbs.opcodes import OperationCode as Op
from holdover.scsi.command import Command
from holdover.scsi.sense import AdditionalSense
from holdover.scsi.status import Status
from tests.lun.support import A, make_unit

REFUSED = AdditionalSense.INVALID_FIELD_IN_CDB
NONE = bytes([0, 1, 0, 0])


def report(options: int, opcode: int = 0, action: int = 0, *, timeouts: bool = False) -> bytes:
    data = report_supported(ReportSupportedOperationCodes(0, options, opcode, action, timeouts))
    assert isinstance(data, bytes)
    return data


def refusal(options: int, opcode: int = 0, action: int = 0) -> AdditionalSense:
    data = report_supported(ReportSupportedOperationCodes(0, options, opcode, action))
    assert isinstance(data, AdditionalSense)
    return data


def rows(*, timeouts: bool = False) -> list[tuple[int, int | None, int]]:
    """Operation code, service action and length of the CDB, of all commands."""
    data = report(0, timeouts=timeouts)
    size = 20 if timeouts else 8
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    found = []
    for at in range(4, len(data), size):
        row = data[at : at + size]
        assert (row[5] & 0x02 != 0) is timeouts
        action = int.from_bytes(row[2:4], "big") if row[5] & 0x01 else None
        found.append((row[0], action, int.from_bytes(row[6:8], "big")))
    return found


def test_all_commands() -> None:
    found = rows()
    assert {opcode for opcode, _, _ in found} == OPERATIONS
    assert len(set(found)) == len(found)
    assert rows(timeouts=True) == found
    lengths = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
    assert all(length == lengths[opcode >> 5] for opcode, _, length in found)


@pytest.mark.parametrize(("opcode", "action", "length"), rows())
def test_each_alone(opcode: int, action: int | None, length: int) -> None:
    options = 1 if action is None else 2
    data = report(options, opcode, action or 0)
    assert data[:4] == bytes([0, 3, 0, length])
    assert len(data) == 4 + length
    usage = data[4:]
    assert usage[0] == opcode
    if action is not None:
        assert usage[1] & 0x1F == action
    assert report(3, opcode, action or 0) == data
    assert report(options, opcode, action or 0, timeouts=True)[1] == 0x83
    assert refusal(3 - options, opcode, action or 0) is REFUSED
    assert not isinstance(decode_cdb(usage[:2] + bytes(length - 2)), OtherCdb)


@pytest.mark.parametrize(("opcode", "action", "length"), rows())
def test_each_is_there(opcode: int, action: int | None, length: int) -> None:
    """A CDB of zeros but for what names the command is not an unknown operation code."""
    cdb = bytes([opcode, action or 0]) + bytes(length - 2)
    response = make_unit().execute(A, Command(cdb))
    assert response.status is not Status.CHECK_CONDITION or response.sense[12] != 0x20


def test_what_there_is_not() -> None:
    assert report(1, Op.FORMAT_UNIT) == NONE
    assert report(2, Op.PERSISTENT_RESERVE_IN, 9) == NONE
    assert report(3, Op.READ_10, 1) == NONE
    assert report(3, Op.PERSISTENT_RESERVE_IN, InServiceAction.READ_KEYS)[1] == 3
    for options in (4, 5, 6, 7):
        assert refusal(options, Op.READ_10) is REFUSED


def test_dpo_and_fua_are_told() -> None:
    for opcode in (Op.READ_10, Op.WRITE_10, Op.READ_12, Op.WRITE_16, Op.COMPARE_AND_WRITE):
        assert report(1, opcode)[5] & 0x18 == 0x18
    assert report(1, Op.VERIFY_10)[5] & 0x18 == 0x10


def test_what_writes_is_what_a_write_exclusive_reservation_keeps_out() -> None:
    assert WRITING < READY < OPERATIONS
    for opcode in WRITING:
        cdb = bytes([opcode]) + bytes(15)
        assert not allowed(cdb, ReservationType.WRITE_EXCLUSIVE, Nexus.NOT_REGISTERED)
