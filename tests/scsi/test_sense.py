"""Sense data in both formats (SPC-4 4.5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.command import Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.sense import (
    AdditionalSense,
    Sense,
    SenseKey,
    check_condition,
    decode_sense,
    describe_response,
    is_unit_attention,
)
from holdover.scsi.status import Status
from tests.scsi.strategies import bits, decodes_or_says_why


def senses(field_bits: int) -> st.SearchStrategy[Sense]:
    return st.builds(
        Sense,
        st.sampled_from(SenseKey),
        bits(16),
        st.none() | bits(field_bits),
        st.booleans(),
        bits(field_bits),
        st.none() | bits(23),
    )


@given(senses(32))
def test_fixed_format_is_18_bytes_and_decodes_to_itself(sense: Sense) -> None:
    assert len(sense.encode()) == 18
    assert decode_sense(sense.encode()) == sense


@given(senses(64))
def test_descriptor_format_decodes_to_itself(sense: Sense) -> None:
    data = sense.encode(descriptor_format=True)
    assert data[7] == len(data) - 8
    assert decode_sense(data) == sense


def test_layouts() -> None:
    sense = Sense(
        SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB, 0x01020304, key_specific=0x480002
    )
    assert sense.encode().hex() == "f0 00 05 01020304 0a 00000000 2400 00 c80002".replace(" ", "")
    assert sense.encode(
        descriptor_format=True
    ).hex() == "72052400 000000 14 000a8000 0000000001020304 02060000 c8000200".replace(" ", "")


def test_fixed_format_leaves_out_what_needs_eight_bytes() -> None:
    sense = Sense(SenseKey.MEDIUM_ERROR, 0x1100, information=1 << 40, command_specific=1 << 40)
    assert decode_sense(sense.encode()) == Sense(SenseKey.MEDIUM_ERROR, 0x1100)


@pytest.mark.parametrize(("first", "deferred"), [(0x70, False), (0x71, True), (0x72, False), (0x73, True)])
def test_response_codes(first: int, deferred: bool) -> None:
    sense = decode_sense(bytes([first, 0x06, 0x06]))
    assert (sense.key, sense.deferred) == (SenseKey.UNIT_ATTENTION, deferred)


@given(senses(32), st.booleans())
def test_every_cut_decodes_or_says_why(sense: Sense, descriptor_format: bool) -> None:
    data = sense.encode(descriptor_format)
    for length in range(len(data)):
        decodes_or_says_why(decode_sense, data[:length])
    key_at = 1 if descriptor_format else 2
    assert decode_sense(data[: key_at + 1]).key is sense.key


@given(st.binary(max_size=64) | st.builds(lambda b: b"\x72\x05\x24\x00\0\0\0" + b, st.binary(max_size=60)))
def test_any_bytes(data: bytes) -> None:
    decodes_or_says_why(decode_sense, data)
    response = Response(Status.CHECK_CONDITION, sense=data)
    assert isinstance(is_unit_attention(response), bool)
    assert describe_response(response).startswith("CHECK CONDITION")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no bytes"),
        (b"\x7f" + bytes(17), "response code 7Fh"),
        (b"\x70\x00", "ends before the sense key"),
        (b"\x70\x00\x0c" + bytes(15), "sense key Ch is reserved"),
    ],
)
def test_what_is_no_sense_data(data: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        decode_sense(data)


def test_additional_length_ends_fixed_format() -> None:
    data = bytearray(Sense(SenseKey.UNIT_ATTENTION, 0x2A03).encode())
    data[7] = 4
    assert decode_sense(bytes(data)) == Sense(SenseKey.UNIT_ATTENTION)


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (Response(Status.GOOD), "GOOD"),
        (Response(Status.RESERVATION_CONFLICT), "RESERVATION CONFLICT"),
        (
            check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_PREEMPTED),
            "CHECK CONDITION: UNIT ATTENTION, RESERVATIONS PREEMPTED (6h 2Ah/03h)",
        ),
        (
            check_condition(
                SenseKey.UNIT_ATTENTION, AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED
            ),
            "CHECK CONDITION: UNIT ATTENTION, POWER ON, RESET, OR BUS DEVICE RESET OCCURRED (6h 29h/00h)",
        ),
        (
            Response(Status.CHECK_CONDITION, sense=Sense(SenseKey.NOT_READY, 0x0480).encode()),
            "CHECK CONDITION: NOT READY (2h 04h/80h)",
        ),
        (Response(Status.CHECK_CONDITION), "CHECK CONDITION (sense data: no bytes)"),
    ],
)
def test_in_words(response: Response, text: str) -> None:
    assert describe_response(response) == text


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (check_condition(SenseKey.UNIT_ATTENTION), True),
        (
            Response(
                Status.CHECK_CONDITION, sense=Sense(SenseKey.UNIT_ATTENTION).encode(descriptor_format=True)
            ),
            True,
        ),
        (
            Response(Status.CHECK_CONDITION, sense=Sense(SenseKey.UNIT_ATTENTION, deferred=True).encode()),
            False,
        ),
        (check_condition(SenseKey.ILLEGAL_REQUEST), False),
        (Response(Status.GOOD, sense=Sense(SenseKey.UNIT_ATTENTION).encode()), False),
        (Response(Status.CHECK_CONDITION), False),
    ],
)
def test_is_unit_attention(response: Response, expected: bool) -> None:
    assert is_unit_attention(response) is expected


def test_check_condition_carries_its_fields() -> None:
    response = check_condition(
        SenseKey.MISCOMPARE, AdditionalSense.MISCOMPARE_DURING_VERIFY_OPERATION, information=7, key_specific=9
    )
    assert response.status is Status.CHECK_CONDITION
    assert decode_sense(response.sense) == Sense(SenseKey.MISCOMPARE, 0x1D00, information=7, key_specific=9)
