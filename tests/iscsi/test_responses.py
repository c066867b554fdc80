"""PDUs of the target, byte for byte as RFC 7143 draws them."""

from __future__ import annotations

import pytest
from msgspec import structs

from holdover.iscsi.header import HEADER, Buffer
from holdover.iscsi.responses import (
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutResponsePdu,
    ReadyToTransfer,
    Reject,
    ScsiResponse,
    good_response,
    is_good_response,
    is_whole_data_in,
    whole_data_in,
)

GOOD = ScsiResponse(1, 0, 2, 3, 4)
WHOLE = DataIn(1, 0, 0, b"data", 3, 4, final=True, has_status=True, stat_sn=2)


def header(buffers: list[Buffer]) -> str:
    return bytes(buffers[0]).hex(" ", 4)


def test_scsi_response_with_sense_and_residual() -> None:
    pdu = ScsiResponse(1, 2, 3, 4, 5, underflow=True, residual=6, exp_data_sn=7, sense=b"abc")
    assert header(pdu.encode()) == (
        "21820002 00000005 00000000 00000000 00000001 00000000 00000003 00000004 "
        "00000005 00000007 00000000 00000006"
    )
    assert pdu.encode()[1:] == [b"\0\3abc", b"\0\0\0"]


def test_scsi_response_with_the_residuals_of_both_directions() -> None:
    pdu = ScsiResponse(
        1, 0, 3, 4, 5, overflow=True, residual=6, read_overflow=True, read_underflow=True, read_residual=7
    )
    assert header(pdu.encode())[:8] == "219c0000"
    assert header(pdu.encode())[-17:] == "00000007 00000006"


def test_data_in_with_status() -> None:
    pdu = DataIn(1, 2, 3, b"abcd", 4, 5, True, True, 0, 6, underflow=True, residual=7)
    assert header(pdu.encode()) == (
        "25830000 00000004 00000000 00000000 00000001 ffffffff 00000006 00000004 "
        "00000005 00000002 00000003 00000007"
    )


def test_ready_to_transfer() -> None:
    assert header(ReadyToTransfer(1, 2, 3 << 48, 4, 5, 6, 7, 8, 9).encode()) == (
        "31800000 00000000 00030000 00000000 00000001 00000002 00000007 00000008 "
        "00000009 00000004 00000005 00000006"
    )


def test_login_response() -> None:
    pdu = LoginResponse(1, bytes.fromhex("80aabbccddee"), 2, 0, 1, True, b"", 0x0201, 3, 4, 5)
    assert header(pdu.encode()) == (
        "23810000 00000000 80aabbcc ddee0002 00000001 00000000 00000003 00000004 "
        "00000005 02010000 00000000 00000000"
    )


def test_logout_response() -> None:
    assert header(LogoutResponsePdu(1, 0, 2, 3, 4, 5, 6).encode()) == (
        "26800000 00000000 00000000 00000000 00000001 00000000 00000002 00000003 "
        "00000004 00000000 00050006 00000000"
    )


def test_async_message() -> None:
    assert header(AsyncMessage(1, 2, 3, 4, 5, 6, 7, 8, 9 << 48).encode()) == (
        "32800000 00000000 00090000 00000000 ffffffff 00000000 00000002 00000003 "
        "00000004 01050006 00070008 00000000"
    )


def test_reject() -> None:
    assert header(Reject(4, bytes(48), 1, 2, 3).encode()) == (
        "3f800400 00000030 00000000 00000000 ffffffff 00000000 00000001 00000002 "
        "00000003 00000000 00000000 00000000"
    )


def test_plain_answers_are_those_of_the_structures() -> None:
    assert [good_response(1, 2, 3, 4)] == GOOD.encode()
    assert [whole_data_in(1, 4, 2, 3, 4), b"data"] == WHOLE.encode()
    assert is_good_response(HEADER.unpack(GOOD.encode()[0]))
    assert is_whole_data_in(HEADER.unpack(WHOLE.encode()[0]))


@pytest.mark.parametrize(
    "other",
    [
        structs.replace(GOOD, status=2),
        structs.replace(GOOD, response=1),
        structs.replace(GOOD, underflow=True, residual=1),
        structs.replace(GOOD, read_overflow=True, read_residual=1),
        structs.replace(WHOLE, status=2),
        structs.replace(WHOLE, final=False),
        structs.replace(WHOLE, has_status=False),
        structs.replace(WHOLE, offset=4),
        structs.replace(WHOLE, data_sn=1),
        structs.replace(WHOLE, overflow=True, residual=1),
        ReadyToTransfer(1, 2, 3, 4, 5, 6, 7, 8, 9),
    ],
)
def test_all_others_are_not_plain(other: ScsiResponse | DataIn | ReadyToTransfer) -> None:
    words = HEADER.unpack(other.encode()[0])
    assert not is_good_response(words)
    assert not is_whole_data_in(words)
