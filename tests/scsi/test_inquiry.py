"""INQUIRY data against the layouts of SPC-4 6.6 and 7.8 and of SBC-3 6.6."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import (
    Association,
    BlockDeviceCharacteristics,
    BlockLimits,
    CodeSet,
    Designator,
    DesignatorType,
    DeviceIdentification,
    LogicalBlockProvisioning,
    StandardInquiry,
    SupportedPages,
    ThirdPartyCopy,
    UnitSerialNumber,
    best_designator,
)
from tests.scsi.strategies import bits, decodes_or_says_why

_flags = st.booleans()


def _texts(width: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=width).map(str.strip)


designators = st.builds(
    Designator,
    st.sampled_from(DesignatorType),
    st.sampled_from(Association),
    st.sampled_from(CodeSet),
    st.binary(max_size=40),
    st.none() | bits(4),
)
standard = st.builds(
    StandardInquiry,
    _texts(8),
    _texts(16),
    _texts(4),
    bits(5),
    bits(3),
    _flags,
    bits(8),
    bits(2),
    _flags,
    _flags,
    _flags,
    _flags,
    st.lists(st.integers(1, 0xFFFF), max_size=8).map(tuple),
)
block_limits = st.builds(
    BlockLimits,
    bits(8),
    bits(16),
    *([bits(32)] * 6),
    st.none() | bits(31),
    bits(64),
    _flags,
)

Page = (
    StandardInquiry
    | SupportedPages
    | UnitSerialNumber
    | DeviceIdentification
    | BlockLimits
    | BlockDeviceCharacteristics
    | LogicalBlockProvisioning
)
pages: st.SearchStrategy[Page] = st.one_of(
    standard,
    st.builds(SupportedPages, st.binary(max_size=9).map(tuple)),
    st.builds(UnitSerialNumber, _texts(64)),
    st.builds(DeviceIdentification, st.lists(designators, max_size=5).map(tuple)),
    block_limits,
    st.builds(BlockDeviceCharacteristics, bits(16), bits(4), bits(2), bits(2)),
    st.builds(LogicalBlockProvisioning, *([_flags] * 5), bits(8), bits(3)),
)
KINDS = (
    StandardInquiry,
    SupportedPages,
    UnitSerialNumber,
    DeviceIdentification,
    BlockLimits,
    BlockDeviceCharacteristics,
    LogicalBlockProvisioning,
)


@given(pages)
def test_decodes_what_it_encodes(page: Page) -> None:
    assert type(page).decode(page.encode()) == page


@given(pages)
def test_every_cut_decodes_or_says_why(page: Page) -> None:
    data = page.encode()
    for length in range(len(data)):
        decodes_or_says_why(type(page).decode, data[:length])


@given(st.sampled_from([0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]), bits(16), st.binary(max_size=90))
def test_any_bytes(code: int, length: int, body: bytes) -> None:
    for data in (body, bytes([0, code]) + length.to_bytes(2, "big") + body):
        for kind in KINDS:
            decodes_or_says_why(kind.decode, data)


def test_standard_layout() -> None:
    data = StandardInquiry("HOLDOVER", "LUN", "1", tpgs=1, multi_port=True, version_descriptors=(0x0460,))
    encoded = data.encode()
    assert encoded[:8].hex() == "0000061245101002"
    assert encoded[8:36] == b"HOLDOVERLUN             1   "
    assert encoded[58:60].hex() == "0460"
    assert len(encoded) == 74
    assert StandardInquiry("a", "b", "c").encode()[4] == 31


def test_a_name_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="longer than 8"):
        StandardInquiry("NINE CHAR", "", "").encode()


def test_page_layouts() -> None:
    assert SupportedPages((0x00, 0x83)).encode().hex() == "000000020083"
    assert UnitSerialNumber("ab").encode().hex() == "008000026162"
    limits = BlockLimits(maximum_transfer=0x01020304, unmap_alignment=0, write_same_non_zero=True).encode()
    assert (len(limits), limits[3], limits[4], limits[8:12].hex(), limits[32]) == (
        64,
        60,
        1,
        "01020304",
        0x80,
    )
    assert BlockDeviceCharacteristics(rotation_rate=1).encode()[:8].hex() == "00b1003c00010000"
    assert BlockDeviceCharacteristics(0, 3, 1, 2).encode()[:8].hex() == "00b1003c00000063"
    provisioning = LogicalBlockProvisioning(unmap=True, reads_zeros=True, provisioning_type=2)
    assert provisioning.encode().hex() == "00b2000400840200"


def test_another_page_is_an_error() -> None:
    with pytest.raises(DecodeError, match="VPD page 83h at byte 1: page code 80h"):
        DeviceIdentification.decode(UnitSerialNumber("x").encode())


def _named(value: bytes, kind: DesignatorType = DesignatorType.NAA) -> Designator:
    code_set = CodeSet.ASCII if kind is DesignatorType.T10 else CodeSet.BINARY
    return Designator(kind, Association.LOGICAL_UNIT, code_set, value)


NAA_6 = _named(bytes.fromhex("6001405aabbccddeeff0011223344556"))
NAA_5 = _named(bytes.fromhex("5000c500a1b2c3d4"))
EUI = _named(bytes.fromhex("0025385a71b0aabb"), DesignatorType.EUI64)
T10 = _named(b"VENDOR  unit 1", DesignatorType.T10)
PORT = Designator(DesignatorType.NAA, Association.TARGET_PORT, CodeSet.BINARY, bytes(16), 6)


class TestDesignator:
    def test_layout(self) -> None:
        assert NAA_5.encode().hex() == "010300085000c500a1b2c3d4"
        assert PORT.encode().hex() == "61930010" + "00" * 16

    @pytest.mark.parametrize(
        ("designator", "text"),
        [
            (NAA_6, "naa.6001405aabbccddeeff0011223344556"),
            (EUI, "eui.0025385a71b0aabb"),
            (T10, "t10.VENDOR  unit 1"),
            (_named(b"100%\n", DesignatorType.T10), "t10.100%25%0A"),
            (PORT, "designator.3.1.1.6." + "00" * 16),
            (
                Designator(DesignatorType.T10, Association.LOGICAL_UNIT, CodeSet.BINARY, b"\x01"),
                "designator.1.0.1.-.01",
            ),
        ],
    )
    def test_text(self, designator: Designator, text: str) -> None:
        assert str(designator) == text
        assert Designator.parse(text) == designator

    @given(designators)
    def test_parses_what_it_writes(self, designator: Designator) -> None:
        assert Designator.parse(str(designator)) == designator

    @given(st.text() | st.builds(lambda tail: "designator." + tail, st.text("0123f.-", max_size=12)))
    def test_any_text(self, text: str) -> None:
        try:
            designator = Designator.parse(text)
        except DecodeError:
            return
        assert Designator.parse(str(designator)) == designator

    @pytest.mark.parametrize(
        "text", ["", "naa", "naa.6x", "wwn.1234", "designator.f.0.1.-.00", "designator.1.0"]
    )
    def test_no_designator(self, text: str) -> None:
        with pytest.raises(DecodeError, match="is not naa"):
            Designator.parse(text)


class TestDeviceIdentification:
    def test_reserved_designators_are_left_out(self) -> None:
        reserved = bytes.fromhex("010f0001aa")
        body = reserved + NAA_5.encode()
        data = b"\x00\x83" + len(body).to_bytes(2, "big") + body
        assert DeviceIdentification.decode(data) == DeviceIdentification((NAA_5,))

    def test_a_cut_keeps_the_designators_that_are_whole(self) -> None:
        data = DeviceIdentification((NAA_5, T10)).encode()
        first = 4 + len(NAA_5.encode())
        for length in range(4, len(data)):
            expected = (NAA_5,) if length >= first else ()
            assert DeviceIdentification.decode(data[:length]) == DeviceIdentification(
                expected, complete=False
            )


class TestBestDesignator:
    @pytest.mark.parametrize(
        ("offered", "best"),
        [
            ((T10, EUI, NAA_5, NAA_6, PORT), NAA_6),
            ((T10, EUI, NAA_5), NAA_5),
            ((T10, EUI, PORT), EUI),
            ((PORT, T10), T10),
            ((PORT,), None),
            ((), None),
        ],
    )
    def test_order(self, offered: tuple[Designator, ...], best: Designator | None) -> None:
        for order in itertools.permutations(offered):
            assert best_designator(order) == best

    def test_of_two_alike_the_lowest(self) -> None:
        low, high = _named(b"\x50" + bytes(7)), _named(b"\x51" + bytes(7))
        assert best_designator((high, low)) == best_designator((low, high)) == low


def test_third_party_copy() -> None:
    page = ThirdPartyCopy(
        ((0x83, (0,)), (0x84, (0, 3))), 0x0102, 0x0304, 0x05060708, (0x02, 0xE4), 0x090A0B0C, 0x0D0E0F10, 9
    ).encode()
    assert page.hex() == (
        "008f0058"
        "00010008" + "07830100" + "84020003"
        "0004001c" + "00000000" + "01020304" + "05060708" + "00" * 16 + "00080004" + "0202e400"
        "80010020" + "090a0b0c" * 2 + "0d0e0f10" + "09" + "00" * 19
    )
