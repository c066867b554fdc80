"""Key=value text."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.iscsi.errors import TextError
from holdover.iscsi.text import (
    MAX_KEYS,
    decode_binary,
    decode_text,
    encode_binary,
    encode_text,
    parse_boolean,
    parse_number,
)

_keys = st.from_regex(r"[A-Z][A-Za-z0-9.+@_-]{0,62}", fullmatch=True)
_values = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=50)


@given(st.dictionaries(_keys, _values, max_size=8))
def test_decoding_reverses_encoding(pairs: dict[str, str]) -> None:
    assert decode_text(encode_text(pairs.items())) == list(pairs.items())


@settings(max_examples=1000)
@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_a_text_error(data: bytes) -> None:
    with contextlib.suppress(TextError):
        decode_text(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"Key", "has no '='"),
        (b"=x", "is no key"),
        (b"1a=x", "is no key"),
        (b"a" * 64 + b"=x", "is no key"),
        (b"A=1\0A=2\0", "A is given twice"),
        (b"A=" + b"x" * 8193, "longer than 8192"),
        (b"".join(b"K%d=1\0" % number for number in range(MAX_KEYS + 1)), "more than 64 keys"),
    ],
)
def test_what_is_no_text(data: bytes, why: str) -> None:
    with pytest.raises(TextError, match=why):
        decode_text(data)


def test_a_value_may_have_an_equals_sign_and_the_last_zero_may_be_missing() -> None:
    assert decode_text(b"A=b=c\0B=") == [("A", "b=c"), ("B", "")]


@pytest.mark.parametrize(
    ("value", "number"), [("512", 512), ("0x200", 512), ("0X200", 512), ("16777215", 16777215)]
)
def test_numbers(value: str, number: int) -> None:
    assert parse_number("MaxBurstLength", value) == number


@pytest.mark.parametrize("value", ["", "511", "16777216", "-1", " 512", "512 ", "5e3", "0x", "٥١٢", "1" * 30])
def test_what_is_no_number(value: str) -> None:
    with pytest.raises(TextError, match="MaxBurstLength"):
        parse_number("MaxBurstLength", value)


def test_booleans() -> None:
    assert parse_boolean("ImmediateData", "Yes")
    assert not parse_boolean("ImmediateData", "No")
    for value in ("yes", "", "1"):
        with pytest.raises(TextError):
            parse_boolean("ImmediateData", value)


@given(st.binary(min_size=1, max_size=50))
def test_binary_values(value: bytes) -> None:
    assert decode_binary("CHAP_C", encode_binary(value)) == value


def test_other_forms_of_binary_values() -> None:
    assert decode_binary("CHAP_C", "0Xabc") == b"\x0a\xbc"
    assert decode_binary("CHAP_C", "0bAQID") == b"\1\2\3"


@pytest.mark.parametrize("value", ["", "0x", "0b", "abc", "0xzz", "0b!", "0bAQI", "0x1 2", "0xé"])
def test_what_is_no_binary_value(value: str) -> None:
    with pytest.raises(TextError, match="CHAP_C"):
        decode_binary("CHAP_C", value)
