"""Parameter lists of PERSISTENT RESERVE OUT against the layouts of SPC-4 6.16.3 and 6.16.4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut, decode_cdb
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.reservation_out import (
    ParameterList,
    RegisterAndMoveParameterList,
    in_command,
    out_command,
)
from holdover.scsi.reservation.transport_id import FcTransportID, SasTransportID
from tests.scsi.strategies import bits, decodes_or_says_why, keys, transport_ids

_flags = st.booleans()

parameter_lists = st.builds(ParameterList, keys, keys, _flags, _flags) | st.builds(
    ParameterList, keys, keys, _flags, _flags, st.just(True), st.lists(transport_ids, max_size=3).map(tuple)
)
moves = st.builds(RegisterAndMoveParameterList, keys, keys, bits(16), transport_ids, _flags, _flags)

_FC = FcTransportID(b"12345678")
_SAS = SasTransportID(b"abcdefgh")


@given(parameter_lists | moves)
def test_decodes_what_it_encodes(parameters: ParameterList | RegisterAndMoveParameterList) -> None:
    assert type(parameters).decode(parameters.encode()) == parameters


@given(parameter_lists | moves)
def test_every_cut_is_an_error(parameters: ParameterList | RegisterAndMoveParameterList) -> None:
    data = parameters.encode()
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            type(parameters).decode(data[:length])


@given(st.binary(max_size=90))
def test_any_bytes(data: bytes) -> None:
    for decode in (ParameterList.decode, ParameterList.decode_basic, RegisterAndMoveParameterList.decode):
        decodes_or_says_why(decode, data)


@given(st.binary(min_size=20, max_size=20), st.booleans(), st.integers(0, 90), st.binary(max_size=90))
def test_any_list_of_transport_ids(keys_and_more: bytes, fits: bool, length: int, body: bytes) -> None:
    length = len(body) if fits else length
    data = keys_and_more + b"\x08\0\0\0" + length.to_bytes(4, "big") + body
    decodes_or_says_why(ParameterList.decode, data)
    decodes_or_says_why(RegisterAndMoveParameterList.decode, keys_and_more + length.to_bytes(4, "big") + body)


@pytest.mark.parametrize(
    ("parameters", "flags"),
    [
        (ParameterList(1, 2), "00"),
        (ParameterList(1, 2, aptpl=True), "01"),
        (ParameterList(1, 2, all_tg_pt=True), "04"),
    ],
)
def test_basic_layout(parameters: ParameterList, flags: str) -> None:
    assert parameters.encode().hex() == "0000000000000001000000000000000200000000" + flags + "000000"


def test_layout_with_transport_ids() -> None:
    parameters = ParameterList(1, 2, spec_i_pt=True, transport_ids=(_FC, _SAS))
    data = parameters.encode()
    assert data[20] == 0x08
    assert data[24:28].hex() == "00000030"
    assert data[28:] == _FC.encode() + _SAS.encode()


def test_move_layout() -> None:
    parameters = RegisterAndMoveParameterList(1, 2, 0x0304, _SAS, unreg=True, aptpl=True)
    assert (
        parameters.encode().hex() == "000000000000000100000000000000020003030400000018" + _SAS.encode().hex()
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (bytes(8), "length of 8 bytes, at least 24"),
        (bytes(25), "length of 25 bytes, without SPEC_I_PT it is 24"),
        (bytes(20) + b"\x08\0\0\0", "ends inside the length"),
        (bytes(20) + b"\x08\0\0\0" + bytes.fromhex("00000017") + bytes(24), "list of 23 bytes, 24 are there"),
        (bytes(20) + b"\x08\0\0\0" + bytes.fromhex("00000019") + bytes(24), "list of 25 bytes, 24 are there"),
        (bytes(20) + b"\x08\0\0\0" + bytes.fromhex("0000001c") + bytes(28), "4 bytes are left"),
    ],
)
def test_malformed_lists(data: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        ParameterList.decode(data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (bytes(8), "length of 8 bytes, at least 24"),
        (bytes(20) + bytes.fromhex("00000019") + bytes(24), "TransportID of 25 bytes, 24 are there"),
        (bytes(20) + bytes.fromhex("00000000"), "0 bytes are left"),
        (bytes(20) + bytes.fromhex("0000001c") + bytes(28), "TransportID of 24 bytes in a field of 28"),
    ],
)
def test_malformed_moves(data: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        RegisterAndMoveParameterList.decode(data)


@given(parameter_lists, st.binary(max_size=8))
def test_the_first_24_bytes_alone(parameters: ParameterList, after: bytes) -> None:
    basic = ParameterList.decode_basic(parameters.encode() + after)
    assert basic.transport_ids == ()
    assert ParameterList.decode_basic(basic.encode()[:24]) == basic
    assert (basic.key, basic.service_action_key, basic.aptpl, basic.all_tg_pt, basic.spec_i_pt) == (
        parameters.key,
        parameters.service_action_key,
        parameters.aptpl,
        parameters.all_tg_pt,
        parameters.spec_i_pt,
    )


def test_whole_commands() -> None:
    preempt = out_command(
        OutServiceAction.PREEMPT, 1, 2, type=ReservationType.EXCLUSIVE_ACCESS, scope=1, aptpl=True
    )
    assert decode_cdb(preempt.cdb) == PersistentReserveOut(4, 24, type=3, scope=1)
    assert ParameterList.decode(preempt.data_out) == ParameterList(1, 2, aptpl=True)
    assert preempt.data_in_length == 0

    keys = in_command(InServiceAction.READ_KEYS, 16)
    assert decode_cdb(keys.cdb) == PersistentReserveIn(0, 16)
    assert (keys.data_out, keys.data_in_length) == (b"", 16)
