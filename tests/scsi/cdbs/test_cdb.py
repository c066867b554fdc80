"""CDBs against the layouts of SPC-4 and SBC-3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.cdbs.cdb import (
    Cdb,
    CompareAndWrite,
    ExtendedCopy,
    GetLbaStatus,
    Inquiry,
    ModeSelect,
    ModeSense6,
    ModeSense10,
    OrWrite,
    OtherCdb,
    PersistentReserveIn,
    PersistentReserveOut,
    PreFetch,
    PreventAllowMediumRemoval,
    Read,
    ReadCapacity10,
    ReadCapacity16,
    ReadDefectData,
    ReceiveCopyResults,
    Release,
    ReportLuns,
    ReportSupportedOperationCodes,
    ReportSupportedTaskManagementFunctions,
    RequestSense,
    Reserve,
    Sanitize,
    SendDiagnostic,
    StartStopUnit,
    SynchronizeCache,
    Unmap,
    Verify,
    Write,
    WriteAndVerify,
    WriteSame,
    decode_cdb,
)
from holdover.scsi.cdbs.cdb import (
    TestUnitReady as UnitReady,
)
from holdover.scsi.errors import DecodeError
from tests.scsi.strategies import bits, decodes_or_says_why

LAYOUTS: list[tuple[Cdb, str]] = [
    (UnitReady(), "000000000000"),
    (RequestSense(252, descriptor_format=True), "03010000fc00"),
    (Inquiry(36), "120000002400"),
    (Inquiry(0x1234, page_code=0x83), "120183123400"),
    (Inquiry(4, page_code=0), "120100000400"),
    (ModeSense6(0x08, 0x01, 192, dbd=True, page_control=2), "1a088801c000"),
    (ModeSense10(0x3F, 0xFF, 0x1234, page_control=1, llbaa=True), "5a107fff000000123400"),
    (ReportLuns(0x01020304, select_report=2), "a00002000000010203040000"),
    (ReadCapacity10(), "25000000000000000000"),
    (ReadCapacity16(32), "9e10000000000000000000000020" + "0000"),
    (Reserve(6), "160000000000"),
    (Reserve(10, third_party=True, extent=True), "56110000000000000000"),
    (Release(6, third_party=True), "171000000000"),
    (Release(10), "57000000000000000000"),
    (PersistentReserveIn(2, 0x1234), "5e020000000000123400"),
    (PersistentReserveOut(4, 0x01020304, type=5, scope=1), "5f0415000001020304" + "00"),
    (Read(0x1F0203, 5, 6), "081f02030500"),
    (Read(0, 256, 6), "080000000000"),
    (Read(0x01020304, 0x0506, 10, fua=True), "28080102030400050600"),
    (Read(0x01020304, 0x05060708, 12, dpo=True), "a81001020304050607080000"),
    (Read(0x0102030405060708, 0x090A0B0C, 16, protect=5), "88a00102030405060708090a0b0c0000"),
    (Write(1, 256, 6), "0a0000010000"),
    (Write(1, 2, 10), "2a000000000100000200"),
    (Write(1, 2, 12), "aa0000000001000000020000"),
    (Write(1, 2, 16, fua=True, dpo=True), "8a180000000000000001000000020000"),
    (SynchronizeCache(1, 2), "35000000000100000200"),
    (SynchronizeCache(1, 2, 16, immed=True), "91020000000000000001000000020000"),
    (Verify(1, 2, 10, bytchk=1), "2f020000000100000200"),
    (Verify(1, 2, 12, bytchk=3), "af0600000001000000020000"),
    (Verify(1, 2, 16, dpo=True, protect=1), "8f300000000000000001000000020000"),
    (WriteAndVerify(1, 2, 10, bytchk=1), "2e020000000100000200"),
    (WriteAndVerify(1, 2, 12, dpo=True), "ae1000000001000000020000"),
    (WriteAndVerify(1, 2, 16, bytchk=1, protect=1), "8e220000000000000001000000020000"),
    (CompareAndWrite(0x0102030405060708, 9, fua=True), "890801020304050607080000000900" + "00"),
    (OrWrite(1, 0x01020304, dpo=True, protect=2), "8b500000000000000001010203040000"),
    (WriteSame(1, 2, 10, unmap=True), "41080000000100000200"),
    (WriteSame(1, 2, 16, unmap=True, no_data_out=True), "93090000000000000001000000020000"),
    (WriteSame(1, 2, 16, anchor=True, protect=1), "93300000000000000001000000020000"),
    (PreFetch(1, 2, 10, immed=True), "34020000000100000200"),
    (PreFetch(1, 2, 16), "90000000000000000001000000020000"),
    (Unmap(0x0118, anchor=True), "42010000000000011800"),
    (GetLbaStatus(0x0102030405060708, 0x090A0B0C), "9e120102030405060708090a0b0c0000"),
    (ReadDefectData(0x1234, 10, format=5, primary=True), "37001500000000123400"),
    (ReadDefectData(0x12345678, 12, grown=True, index=9), "b70800000009123456780000"),
    (Sanitize(1, 516, immed=True, ause=True), "48a10000000000020400"),
    (Sanitize(0x1F), "481f0000000000000000"),
    (StartStopUnit(), "1b0000000100"),
    (StartStopUnit(False, True, 3, 1, True, True), "1b0100013600"),
    (PreventAllowMediumRemoval(1), "1e0000000100"),
    (SendDiagnostic(True), "1d0400000000"),
    (SendDiagnostic(False, 5, 0x1234, True, True, True), "1db300123400"),
    (ModeSelect(24, 6), "151000001800"),
    (ModeSelect(0x1234, 10, page_format=False, save=True), "55010000000000123400"),
    (ExtendedCopy(0x01020304), "83000000000000000000010203040000"),
    (ReceiveCopyResults(3, 9, 0x01020304), "84030900000000000000010203040000"),
    (ReportSupportedOperationCodes(0x01020304), "a30c00000000010203040000"),
    (ReportSupportedOperationCodes(255, 2, 0x5F, 7, timeouts=True), "a30c825f0007000000ff0000"),
    (ReportSupportedTaskManagementFunctions(16, extended=True), "a30d80000000000000100000"),
    (OtherCdb(bytes.fromhex("9e13") + bytes(14)), "9e13" + "00" * 14),
    (OtherCdb(bytes.fromhex("a30a") + bytes(10)), "a30a" + "00" * 10),
    (OtherCdb(bytes.fromhex("8301") + bytes(14)), "8301" + "00" * 14),
    (OtherCdb(b"\xc1\x02"), "c102"),
]


@pytest.mark.parametrize(("cdb", "wire"), LAYOUTS)
def test_layout(cdb: Cdb, wire: str) -> None:
    assert cdb.encode().hex() == wire
    assert decode_cdb(bytes.fromhex(wire)) == cdb


@pytest.mark.parametrize(("cdb", "wire"), [each for each in LAYOUTS if not isinstance(each[0], OtherCdb)])
def test_padding_is_ignored_and_every_cut_refused(cdb: Cdb, wire: str) -> None:
    data = bytes.fromhex(wire)
    assert decode_cdb(data.ljust(32, b"\0")) == cdb
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            decode_cdb(data[:length])


_flags = st.booleans()
_long = st.sampled_from([10, 12, 16])

cdbs: st.SearchStrategy[Cdb] = st.one_of(
    st.just(UnitReady()),
    st.just(ReadCapacity10()),
    st.builds(RequestSense, bits(8), _flags),
    st.builds(Inquiry, bits(16), st.none() | bits(8)),
    st.builds(ModeSense6, bits(6), bits(8), bits(8), _flags, bits(2)),
    st.builds(ModeSense10, bits(6), bits(8), bits(16), _flags, bits(2), _flags),
    st.builds(ReportLuns, bits(32), bits(8)),
    st.builds(ReadCapacity16, bits(32)),
    st.builds(PersistentReserveIn, bits(5), bits(16)),
    st.builds(PersistentReserveOut, bits(5), bits(32), bits(4), bits(4)),
    st.builds(Reserve, st.sampled_from([6, 10]), _flags, _flags),
    st.builds(Release, st.sampled_from([6, 10]), _flags, _flags),
    st.builds(
        lambda kind, *rest: kind(*rest),
        st.sampled_from([Read, Write]),
        bits(21),
        st.integers(1, 256),
        st.just(6),
    ),
    st.builds(
        lambda kind, *rest: kind(*rest),
        st.sampled_from([Read, Write]),
        bits(32),
        bits(16),
        _long,
        _flags,
        _flags,
        bits(3),
    ),
    st.builds(Read, bits(64), bits(32), st.just(16), _flags, _flags, bits(3)),
    st.builds(SynchronizeCache, bits(32), bits(16), st.sampled_from([10, 16]), _flags),
    st.builds(
        lambda kind, *rest: kind(*rest),
        st.sampled_from([Verify, WriteAndVerify]),
        bits(32),
        bits(16),
        _long,
        bits(2),
        _flags,
        bits(3),
    ),
    st.builds(CompareAndWrite, bits(64), bits(8), _flags, _flags, bits(3)),
    st.builds(OrWrite, bits(64), bits(32), _flags, _flags, bits(3)),
    st.builds(WriteSame, bits(32), bits(16), st.just(10), _flags, _flags, st.just(False), bits(3)),
    st.builds(WriteSame, bits(64), bits(32), st.just(16), _flags, _flags, _flags, bits(3)),
    st.builds(PreFetch, bits(32), bits(16), st.sampled_from([10, 16]), _flags),
    st.builds(Unmap, bits(16), _flags),
    st.builds(GetLbaStatus, bits(64), bits(32)),
    st.builds(ReadDefectData, bits(16), st.just(10), bits(3), _flags, _flags),
    st.builds(ReadDefectData, bits(32), st.just(12), bits(3), _flags, _flags, bits(32)),
    st.builds(Sanitize, bits(5), bits(16), _flags, _flags),
    st.builds(StartStopUnit, _flags, _flags, bits(4), bits(4), _flags, _flags),
    st.builds(PreventAllowMediumRemoval, bits(2)),
    st.builds(SendDiagnostic, _flags, bits(3), bits(16), _flags, _flags, _flags),
    st.builds(ModeSelect, bits(8), st.sampled_from([6, 10]), _flags, _flags),
    st.builds(ExtendedCopy, bits(32)),
    st.builds(ReceiveCopyResults, bits(5), bits(8), bits(32)),
    st.builds(ReportSupportedOperationCodes, bits(32), bits(3), bits(8), bits(16), _flags),
    st.builds(ReportSupportedTaskManagementFunctions, bits(32), _flags),
    st.builds(OtherCdb, st.builds(lambda tail: b"\xc0" + tail, st.binary(max_size=20))),
)


@given(cdbs)
def test_decodes_what_it_encodes(cdb: Cdb) -> None:
    assert decode_cdb(cdb.encode()) == cdb


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    decodes_or_says_why(decode_cdb, data)


@given(bits(8), st.binary(min_size=15, max_size=15))
def test_any_bytes_behind_any_operation_code(opcode: int, rest: bytes) -> None:
    decodes_or_says_why(decode_cdb, bytes([opcode]) + rest)


@pytest.mark.parametrize("wire", ["48420000000000000000", "48020100000000000000", "48020000000001000000"])
def test_sanitize_heeds_reserved_bits(wire: str) -> None:
    with pytest.raises(DecodeError, match="SANITIZE CDB: reserved bits"):
        decode_cdb(bytes.fromhex(wire))


def test_a_page_code_needs_evpd() -> None:
    with pytest.raises(DecodeError, match="83h without EVPD"):
        decode_cdb(bytes.fromhex("120083002400"))


def test_the_error_names_the_command() -> None:
    with pytest.raises(DecodeError, match="PERSISTENT RESERVE OUT CDB: length of 6 bytes, 10 are needed"):
        decode_cdb(b"\x5f" + bytes(5))
    with pytest.raises(DecodeError, match="PERSISTENT RESERVE IN CDB"):
        PersistentReserveIn.decode(b"\x5e" + bytes(8))


@pytest.mark.parametrize(
    "cdb", [Read(1 << 21, 1, 6), Read(0, 257, 6), Write(0, 0, 6), Write(0, 1, 6, fua=True)]
)
def test_what_six_bytes_cannot_hold(cdb: Cdb) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        cdb.encode()


@pytest.mark.parametrize("cdb", [WriteSame(0, 1, 10, no_data_out=True), ReadDefectData(8, 10, index=1)])
def test_fields_that_ten_bytes_do_not_have(cdb: Cdb) -> None:
    with pytest.raises(ValueError, match="has no"):
        cdb.encode()
