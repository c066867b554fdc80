"""EXTENDED COPY(LID1) parameter list and RECEIVE COPY RESULTS data (SPC-4 6.4, 6.20, 6.21)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.cdbs.extended_copy import (
    CopyList,
    CopyStatus,
    CscdDescriptor,
    OperatingParameters,
    OtherDescriptor,
    SegmentDescriptor,
)
from holdover.scsi.errors import DecodeError
from tests.scsi.strategies import bits, decodes_or_says_why

NAA = CscdDescriptor(1, 0, 3, bytes.fromhex("3123456789abcdef"), 512)
SEGMENT = SegmentDescriptor(0, 1, 0x0203, 0x0405060708090A0B, 0x1213141516171819, by_destination=True)

cscds = st.builds(
    CscdDescriptor,
    bits(4),
    bits(2),
    bits(4),
    st.binary(max_size=20),
    bits(24),
    bits(2),
    st.booleans(),
    bits(5),
)
segments = st.builds(SegmentDescriptor, bits(16), bits(16), bits(16), bits(64), bits(64), st.booleans())
lists = st.builds(
    CopyList,
    st.lists(cscds, max_size=4).map(tuple),
    st.lists(segments, max_size=4).map(tuple),
    bits(8),
    bits(2),
    bits(3),
    st.booleans(),
    st.binary(max_size=20),
)


def test_layout() -> None:
    data = CopyList((NAA,), (SEGMENT,), 7, 2, 1, sequential=True, inline=b"x").encode()
    assert data[:16].hex() == "07310020" + "00000000" + "0000001c" + "00000001"
    assert data[16:48].hex() == "e4000000" + "01030008" + "3123456789abcdef" + "00" * 12 + "00000200"
    assert data[48:76].hex() == "02020018" + "00000001" + "00000203" + "0405060708090a0b" + "1213141516171819"
    assert data[76:] == b"x"


@given(lists)
def test_decodes_what_it_encodes(wanted: CopyList) -> None:
    data = wanted.encode()
    assert CopyList.decode(data) == wanted
    assert CopyList.decode(data + b"more") == wanted


def test_every_cut_is_refused() -> None:
    data = CopyList((NAA,), (SEGMENT,)).encode()
    for length in range(len(data)):
        with pytest.raises(DecodeError, match="length of") as raised:
            CopyList.decode(data[:length])
        assert raised.value.offset is None


@given(lists, st.data())
def test_any_change_of_a_byte(wanted: CopyList, data: st.DataObject) -> None:
    raw = bytearray(wanted.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(bits(8))
    decodes_or_says_why(CopyList.decode, bytes(raw))


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    decodes_or_says_why(CopyList.decode, data)


def test_descriptors_of_other_types_are_kept_to_the_end_of_their_list() -> None:
    strange, after = OtherDescriptor(b"\xe0" + bytes(31)), OtherDescriptor(b"\x03" + bytes(40))
    wanted = CopyList((NAA, strange), (SEGMENT, after))
    assert CopyList.decode(wanted.encode()) == wanted
    assert (strange.type, after.type) == (0xE0, 0x03)


def test_descriptors_that_contradict_themselves() -> None:
    data = bytearray(CopyList((NAA,), (SEGMENT,)).encode())
    for at, value, problem in ((23, 21, "designator of 21 bytes"), (51, 0x17, "descriptor length 0017h")):
        broken = bytearray(data)
        broken[at] = value
        with pytest.raises(DecodeError, match=problem):
            CopyList.decode(bytes(broken))
    cut = bytearray(data)
    cut[3] = 0x1F
    with pytest.raises(DecodeError, match="last CSCD descriptor is cut off"):
        CopyList.decode(bytes(cut))
    cut = bytearray(data)
    cut[11] = 0x1B
    with pytest.raises(DecodeError, match="last segment descriptor is cut off"):
        CopyList.decode(bytes(cut))


def test_copy_status() -> None:
    assert CopyStatus(1, 2, 0x01020304).encode().hex() == "00000008" + "81000200" + "01020304"
    assert CopyStatus(2, 0, 0, held_discarded=False).encode().hex() == "00000008" + "02000000" + "00000000"
    assert CopyStatus(0, 0, 1 << 33).encode().hex() == "00000008" + "80000001" + "00800000"


def test_operating_parameters() -> None:
    data = OperatingParameters(0x0102, 0x0304, 0x05060708, 0x090A0B0C, 0x0D0E, (0x02, 0xE4)).encode()
    assert data.hex() == (
        "0000002a" + "01000000" + "0102" + "0304" + "05060708" + "090a0b0c" + "00" * 14 + "0d0e" + "ff09"
        "0000000000" + "02" + "02e4"
    )
