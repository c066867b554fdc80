"""iSCSI names and LUN fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import MAX_LUN, check_iscsi_name, decode_lun, encode_lun


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2001-04.com.example",
        "iqn.2001-04.com.example:disk.0:x_y",
        "iqn.2001-04.com.example:",
        "eui.02004567a425678d",
        "naa.52004567ba64678d",
        "naa.62004567ba64678d0123456789abcdef",
        "iqn.2001-04.com.example:" + "a" * (223 - 24),
    ],
)
def test_names_that_are_names(name: str) -> None:
    assert check_iscsi_name(name) == name


def test_names_are_compared_in_lower_case() -> None:
    assert check_iscsi_name("IQN.2001-04.COM.Example:A") == "iqn.2001-04.com.example:a"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "does not start with"),
        ("disk", "does not start with"),
        ("iqn.com.example", "is not of the form"),
        ("iqn.2001-13.com.example", "is not of the form"),
        ("iqn.2001-04.com example", "is not of the form"),
        ("iqn.2001-04.com.example:a,b", "is not of the form"),
        ("iqn.2001-04.com.example:a\0b", "is not of the form"),
        ("iqn.2001-04.com.example:a\n", "is not of the form"),
        ("eui.123", "is not of the form"),
        ("naa.02004567ba64678d0", "is not of the form"),
        ("iqn.2001-04.com.example:" + "a" * 200, "longer than 223 bytes"),
    ],
)
def test_names_that_are_none(name: str, why: str) -> None:
    with pytest.raises(IscsiNameError, match=why):
        check_iscsi_name(name)


@given(st.integers(0, MAX_LUN))
def test_lun_decoding_reverses_encoding(number: int) -> None:
    assert decode_lun(encode_lun(number)) == number


def test_lun_forms() -> None:
    assert encode_lun(5) == 0x0005 << 48
    assert encode_lun(256) == 0x4100 << 48
    # Flat space addressing of a low number is another form of the same.
    assert decode_lun(0x4005 << 48) == 5
    # Another bus, a second level, a well-known logical unit.
    for field in (0x0105 << 48, 0x0005_0001 << 32, 0xC101 << 48, 0x8005 << 48):
        assert decode_lun(field) is None


@pytest.mark.parametrize("number", [-1, MAX_LUN + 1])
def test_lun_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match="not within 0 to 16383"):
        encode_lun(number)


@given(st.integers(0, 2**64 - 1))
def test_any_lun_field_has_a_number_or_none(field: int) -> None:
    number = decode_lun(field)
    assert number is None or 0 <= number <= MAX_LUN
