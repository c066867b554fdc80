from __future__ import annotations

import ctypes
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.paths.sgio_header import (
    ANSWERED,
    NOT_SENT,
    Direction,
    HostStatus,
    SgHeader,
    SgioResult,
    SgRequest,
    direction_of,
    judge,
    judge_errno,
)
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.status import Status

CDBS = st.binary(min_size=1, max_size=32)
IN = Command(b"\x5e" + bytes(15), data_in_length=64)


def test_the_header_is_laid_out_as_the_kernel_has_it() -> None:
    # x86-64 and arm64, as <scsi/sg.h> says: pointers are aligned, and the answer begins after usr_ptr
    assert ctypes.sizeof(SgHeader) == 88
    places = {name: getattr(SgHeader, name).offset for name, _ in SgHeader._fields_}
    assert places["dxfer_len"] == 12
    assert places["dxferp"] == 16
    assert places["timeout"] == 40
    assert places["usr_ptr"] == 56
    assert places["status"] == 64
    assert places["host_status"] == 68
    assert places["resid"] == 72


def laid_out(command: Command, timeout: float = 1) -> SgRequest:
    request = SgRequest()
    request.lay_out(command, timeout)
    return request


@given(CDBS, st.binary(max_size=9000), st.floats(0.001, 10_000_000))
def test_the_buffers_hold_the_command(cdb: bytes, data_out: bytes, timeout: float) -> None:
    request = laid_out(Command(cdb, data_out), timeout)
    header = request.header
    assert ctypes.string_at(header.cmdp, header.cmd_len) == cdb
    assert header.dxfer_len == len(data_out)
    if data_out:
        assert ctypes.string_at(header.dxferp, header.dxfer_len) == data_out
        assert header.dxfer_direction == Direction.TO_DEVICE
    else:
        assert header.dxferp is None
        assert header.dxfer_direction == Direction.NONE
    assert header.interface_id == 0x53
    assert 1 <= header.timeout <= 0xFFFFFFFF
    if timeout < 4_000_000:
        assert abs(header.timeout - timeout * 1000) <= 1
    assert request.result().data == b""


@given(st.binary(min_size=1, max_size=9000), st.integers(-100, 10_000), st.binary(max_size=252))
def test_what_the_kernel_writes_is_what_the_outcome_says(data: bytes, residual: int, sense: bytes) -> None:
    request = laid_out(Command(b"\x5e", data_in_length=len(data)))
    header = request.header
    assert header.dxfer_direction == Direction.FROM_DEVICE
    ctypes.memmove(header.dxferp, data, len(data))
    ctypes.memmove(header.sbp, sense, len(sense))
    header.sb_len_wr = len(sense)
    header.status, header.host_status, header.driver_status = 0x02, 0x11, 0x08
    header.resid = residual
    came = data if residual < 0 else data[: max(len(data) - residual, 0)]
    assert request.result() == SgioResult(0x02, 0x11, 0x08, came, sense)


@given(st.lists(st.tuples(st.binary(max_size=200), st.integers(1, 200)), min_size=2))
def test_a_request_shows_nothing_of_the_command_before(commands: list[tuple[bytes, int]]) -> None:
    request = SgRequest(arena=150)
    header = request.header
    for written, length in commands:
        request.lay_out(Command(b"\x5e", data_in_length=length), 1)
        assert ctypes.string_at(header.dxferp, length) == bytes(length)
        assert request.result() == SgioResult(0, data=bytes(length))
        ctypes.memmove(header.dxferp, written, min(len(written), length))
        header.status, header.host_status, header.driver_status, header.resid = 2, 3, 8, 5
        header.sb_len_wr = 8
        request.lay_out(Command(b"\x5f", written), 1)
        assert request.result() == SgioResult(0)


@pytest.mark.parametrize("cdb", [b"", bytes(33), bytes(260)])
def test_a_cdb_that_the_kernel_does_not_take_is_refused(cdb: bytes) -> None:
    with pytest.raises(ValueError, match=f"CDB of {len(cdb)} bytes"):
        laid_out(Command(cdb))


def test_data_in_both_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="both directions"):
        direction_of(Command(bytes(6), b"out", 4))


@given(st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=40))
def test_any_outcome_is_an_answer_or_in_doubt(status: int, host: int, driver: int, sense: bytes) -> None:
    result = SgioResult(status, host, driver, b"data", sense)
    known = status in set(Status) and host in ANSWERED and driver & 0x0F in (0, 8)
    if known and (host == 0 or status != 0):
        response = judge("disk", result)
        assert response.status == status
        assert response.data_in == (b"data" if status in (Status.GOOD, Status.CONDITION_MET) else b"")
        assert response.sense == (sense if status == Status.CHECK_CONDITION else b"")
    else:
        with pytest.raises(AnswerLost, match="disk"):
            judge("disk", result)


def test_an_answer_is_what_the_logical_unit_said() -> None:
    assert judge("disk", SgioResult(0x18, HostStatus.NEXUS_FAILURE)) == Response(Status.RESERVATION_CONFLICT)
    assert judge("disk", SgioResult(0x00, data=b"keys")) == Response(Status.GOOD, b"keys")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (SgioResult(0, HostStatus.NO_CONNECT), r"host status NO CONNECT \(01h\)"),
        (SgioResult(0x02, HostStatus.TIME_OUT, 0x08, b"", b"\x70"), r"host status TIME OUT \(03h\)"),
        (SgioResult(0, HostStatus.NEXUS_FAILURE), r"host status NEXUS FAILURE \(11h\)"),
        (SgioResult(0, 0x77), "host status 77h"),
        (SgioResult(0, 0, 0x06), "driver status 06h"),
        (SgioResult(0x22), "SCSI status 22h"),
    ],
)
def test_what_is_in_doubt_says_why(result: SgioResult, words: str) -> None:
    with pytest.raises(AnswerLost, match=words):
        judge("disk", result)


@given(st.integers(1, 133))
def test_an_errno_is_in_doubt_unless_it_is_listed(number: int) -> None:
    error = judge_errno("disk", number)
    assert isinstance(error, PathError)
    assert isinstance(error, AnswerLost) == (number not in NOT_SENT)


def test_a_missing_capability_is_named() -> None:
    assert "CAP_SYS_RAWIO" in judge_errno("disk", errno.EPERM).problem
    assert type(judge_errno("disk", errno.ENODEV)) is AnswerLost
