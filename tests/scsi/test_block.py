"""READ CAPACITY and REPORT LUNS data (SBC-3 5.15, 5.16, SPC-4 6.33)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.block import Capacity, LunList
from holdover.scsi.errors import DecodeError
from tests.scsi.strategies import bits, decodes_or_says_why, exactly


@given(
    st.builds(
        Capacity,
        st.integers(1, 1 << 64),
        bits(32),
        bits(4),
        st.booleans(),
        st.booleans(),
        bits(14),
    )
)
def test_capacity_16_decodes_what_it_encodes(capacity: Capacity) -> None:
    data = capacity.encode_16()
    assert len(data) == 32
    assert Capacity.decode_16(data) == capacity
    for length in range(32):
        decodes_or_says_why(Capacity.decode_16, data[:length])


@given(st.builds(Capacity, st.integers(1, 0xFFFFFFFF), bits(32)))
def test_capacity_10_decodes_what_it_encodes(capacity: Capacity) -> None:
    assert Capacity.decode_10(capacity.encode_10()) == capacity


@pytest.mark.parametrize("blocks", [1 << 32, (1 << 32) + 1, 1 << 40])
def test_capacity_10_sends_the_reader_on(blocks: int) -> None:
    data = Capacity(blocks, 512).encode_10()
    assert data.hex() == "ffffffff00000200"
    assert Capacity.decode_10(data) is None


def test_layouts() -> None:
    capacity = Capacity(0x20000, 512, physical_exponent=3, thin=True, lowest_aligned=1)
    assert capacity.encode_10().hex() == "0001ffff00000200"
    assert capacity.encode_16().hex() == "000000000001ffff0000020000038001" + "00" * 16
    assert LunList((bytes(8), b"\x00\x01" + bytes(6))).encode().hex() == (
        "000000100000000000000000000000000001000000000000"
    )


@given(st.lists(exactly(8), max_size=5).map(tuple))
def test_luns_decode_what_they_encode_however_cut(luns: tuple[bytes, ...]) -> None:
    data = LunList(luns).encode()
    assert LunList.decode(data) == LunList(luns)
    for length in range(8, len(data)):
        assert LunList.decode(data[:length]) == LunList(luns[: (length - 8) // 8], complete=False)


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    for decode in (Capacity.decode_10, Capacity.decode_16, LunList.decode):
        decodes_or_says_why(decode, data)


def test_what_is_too_short() -> None:
    for decode in (Capacity.decode_10, Capacity.decode_16, LunList.decode):
        with pytest.raises(DecodeError, match="length of 7 bytes"):
            decode(bytes(7))
