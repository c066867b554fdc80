"""Blocks that show when they were overwritten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdover.demo.blocks import BLOCK, FOREIGN, block, check

numbers = st.integers(0, 2**64 - 1)


@given(sequence=numbers, address=numbers)
def test_a_block_is_known_by_its_number_and_place(sequence: int, address: int) -> None:
    data = block(sequence, address)
    assert len(data) == BLOCK
    assert check(data, address) == sequence
    assert check(data, (address + 1) % 2**64) is None


@given(at=st.integers(0, BLOCK - 1), change=st.integers(1, 255))
def test_any_changed_byte_is_seen(at: int, change: int) -> None:
    data = bytearray(block(5, 6))
    data[at] ^= change
    assert check(bytes(data), 6) is None


def test_what_the_intruder_writes_is_no_block() -> None:
    assert len(FOREIGN) == BLOCK
    assert check(FOREIGN, 0) is None
    assert check(b"", 0) is None
