"""Parameter data of block devices (SBC-3 5.4, 5.15 to 5.18, 5.21, 5.25, SPC-4 6.33)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.block import (
    Capacity,
    DefectList,
    LbaStatus,
    LbaStatusDescriptor,
    LunList,
    OverwriteParameters,
    Provisioning,
    UnmapList,
)
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


DECODERS = (
    Capacity.decode_10,
    Capacity.decode_16,
    LunList.decode,
    UnmapList.decode,
    LbaStatus.decode,
    OverwriteParameters.decode,
)


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    for decode in DECODERS:
        decodes_or_says_why(decode, data)


def test_what_is_too_short() -> None:
    for decode in (
        Capacity.decode_10,
        Capacity.decode_16,
        LunList.decode,
        UnmapList.decode,
        LbaStatus.decode,
    ):
        with pytest.raises(DecodeError, match="length of 7 bytes"):
            decode(bytes(7))


@given(st.lists(st.tuples(bits(64), bits(32)), max_size=5).map(tuple))
def test_unmap_lists_decode_what_they_encode_however_cut(ranges: tuple[tuple[int, int], ...]) -> None:
    data = UnmapList(ranges).encode()
    assert UnmapList.decode(data) == UnmapList(ranges)
    for length in range(8, len(data)):
        assert UnmapList.decode(data[:length]) == UnmapList(ranges[: (length - 8) // 16])


@given(
    st.lists(st.builds(LbaStatusDescriptor, bits(64), bits(32), st.sampled_from(Provisioning)), max_size=5)
)
def test_lba_status_decodes_what_it_encodes_however_cut(descriptors: list[LbaStatusDescriptor]) -> None:
    data = LbaStatus(tuple(descriptors)).encode()
    assert LbaStatus.decode(data) == LbaStatus(tuple(descriptors))
    for length in range(8, len(data)):
        found = LbaStatus.decode(data[:length])
        assert found == LbaStatus(tuple(descriptors[: (length - 8) // 16]))


def test_a_reserved_provisioning_status() -> None:
    data = bytearray(LbaStatus((LbaStatusDescriptor(0, 1, Provisioning.MAPPED),)).encode())
    data[20] = 0x0F
    with pytest.raises(DecodeError, match="provisioning status Fh is reserved"):
        LbaStatus.decode(bytes(data))


@given(st.builds(OverwriteParameters, st.binary(max_size=600), bits(5), bits(2), st.booleans()))
def test_overwrite_parameters_decode_what_they_encode(parameters: OverwriteParameters) -> None:
    data = parameters.encode()
    assert OverwriteParameters.decode(data) == parameters
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            OverwriteParameters.decode(data[:length])


def test_layouts_of_provisioning_and_defects() -> None:
    assert UnmapList(((0x0102030405060708, 0x090A0B0C),)).encode().hex() == (
        "0016001000000000" + "0102030405060708090a0b0c00000000"
    )
    status = LbaStatus((LbaStatusDescriptor(5, 6, Provisioning.DEALLOCATED),))
    assert status.encode().hex() == "0000001400000000" + "00000000000000050000000601000000"
    assert DefectList(5, primary=True, grown=False).encode_10().hex() == "00150000"
    assert DefectList(0, primary=False, grown=True).encode_12().hex() == "0008000000000000"
    assert OverwriteParameters(b"ab", 3, 1, invert=True).encode().hex() == "a30000026162"
