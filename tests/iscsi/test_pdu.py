"""PDUs from bytes: the reverse of encoding, cut anywhere, and nothing but PduError for any bytes."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.iscsi.digest import Digest, add_digests
from holdover.iscsi.errors import PduError
from holdover.iscsi.pdu import DamagedPdu, Pdu, PduReader, UnknownPdu, decode_pdu
from holdover.iscsi.requests import NopOut
from tests.iscsi.strategies import pdus


def encode(*some: Pdu) -> bytes:
    return b"".join(b"".join(pdu.encode()) for pdu in some)


def drain(reader: PduReader) -> list[Pdu]:
    found = []
    while (pdu := reader.next()) is not None:
        assert not isinstance(pdu, DamagedPdu)
        found.append(pdu)
    return found


@given(pdus)
def test_decoding_reverses_encoding(pdu: Pdu) -> None:
    reader = PduReader(1000)
    reader.feed(encode(pdu))
    assert drain(reader) == [pdu]


@given(pdus)
def test_pdus_are_whole_words(pdu: Pdu) -> None:
    assert len(encode(pdu)) % 4 == 0


@given(st.lists(pdus, max_size=5), st.lists(st.integers(0, 2000), max_size=12))
def test_a_stream_may_be_cut_anywhere(some: list[Pdu], cuts: list[int]) -> None:
    stream = encode(*some)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader, found, buffer = PduReader(1000), [], bytearray(len(stream))
    for start, end in pairwise(places):
        # One buffer for all pieces, as connections have it: what stood there before is gone.
        buffer[: end - start] = stream[start:end]
        reader.feed(memoryview(buffer)[: end - start])
        found += drain(reader)
    assert found == some


@settings(max_examples=2000)
@given(st.binary(max_size=300), st.integers(0, 200))
def test_any_bytes_give_pdus_or_a_pdu_error(data: bytes, max_data_length: int) -> None:
    reader = PduReader(max_data_length)
    reader.feed(data)
    with contextlib.suppress(PduError):
        drain(reader)


@settings(max_examples=2000)
@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_any_parts_give_a_pdu_or_a_pdu_error(header: bytes, additional: bytes, data: bytes) -> None:
    for code in (header[:1], b"\x01", b"\x21"):
        with contextlib.suppress(PduError):
            decode_pdu(code + header[1:48].ljust(47, b"\0"), additional, data)
    with contextlib.suppress(PduError):
        decode_pdu(header, additional, data)


def test_a_data_segment_beyond_the_limit_is_refused() -> None:
    reader = PduReader(3)
    reader.feed(encode(NopOut(1, 2, 3, data=b"four")))
    with pytest.raises(PduError, match="data segment of 4 bytes where 3 may come"):
        reader.next()


def test_an_operation_code_without_a_meaning_is_kept() -> None:
    header = bytes([0x1C]) + bytes(range(1, 4)) + bytes(44)
    assert decode_pdu(header, b"", b"x") == UnknownPdu(0x1C, header, b"x")
    assert b"".join(UnknownPdu(0x1C, header, b"").encode()) == header


def test_sense_data_shorter_than_their_length_are_refused() -> None:
    header = bytes([0x21]) + bytes(47)
    with pytest.raises(PduError, match="sense data of 5 bytes in a segment of 4"):
        decode_pdu(header, b"", b"\0\5ab")


@pytest.mark.parametrize("additional", [b"\0\0\1\0", b"\0\x09\1\0"])
def test_additional_headers_that_contradict_themselves_are_refused(additional: bytes) -> None:
    with pytest.raises(PduError, match="additional header segment"):
        decode_pdu(bytes([0x01]) + bytes(47), additional, b"")


def test_a_cdb_of_more_than_260_bytes_is_refused() -> None:
    additional = (246).to_bytes(2) + bytes([1]) + bytes(249)
    with pytest.raises(PduError, match="CDB of 261 bytes"):
        decode_pdu(bytes([0x01]) + bytes(47), additional, b"")


digests = st.sampled_from(Digest)


def with_digests(pdu: Pdu, header: Digest, data: Digest) -> bytes:
    return b"".join(add_digests(pdu.encode(), header, data))


def reader_with(header: Digest, data: Digest) -> PduReader:
    reader = PduReader(1000)
    reader.agree(reader.max_data_length, header, data)
    return reader


@given(st.lists(pdus, max_size=5), digests, digests, st.lists(st.integers(0, 2000), max_size=10))
def test_digests_are_taken_out_wherever_the_stream_is_cut(
    some: list[Pdu], header: Digest, data: Digest, cuts: list[int]
) -> None:
    stream = b"".join(with_digests(pdu, header, data) for pdu in some)
    reader, found = reader_with(header, data), []
    for start, end in pairwise([0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
        reader.feed(stream[start:end])
        found += drain(reader)
    assert found == some


@given(pdus, digests, st.data())
def test_a_damaged_header_is_known_before_its_length_is_believed(
    pdu: Pdu, data: Digest, source: st.DataObject
) -> None:
    head = len(pdu.encode()[0])
    stream = bytearray(with_digests(pdu, Digest.CRC32C, data))
    stream[source.draw(st.integers(0, head + 3))] ^= 1 << source.draw(st.integers(0, 7))
    reader = reader_with(Digest.CRC32C, data)
    # What the length of the additional headers says must be there before they can be checked.
    reader.feed(stream + bytes(1020))
    with pytest.raises(PduError):
        drain(reader)


@pytest.mark.parametrize("header", Digest)
@given(st.binary(min_size=1, max_size=20), st.data())
def test_damaged_data_leave_the_stream_whole(header: Digest, payload: bytes, source: st.DataObject) -> None:
    ping = NopOut(1, 2, 3, data=payload)
    stream = bytearray(with_digests(ping, header, Digest.CRC32C))
    behind = 48 + (4 if header is Digest.CRC32C else 0)
    stream[source.draw(st.integers(behind, len(stream) - 1))] ^= 1 << source.draw(st.integers(0, 7))
    reader = reader_with(header, Digest.CRC32C)
    reader.feed(stream + with_digests(ping, header, Digest.CRC32C))
    damaged = reader.next()
    assert isinstance(damaged, DamagedPdu)
    assert isinstance(damaged.pdu, NopOut)
    assert damaged.pdu.task_tag == 1
    assert drain(reader) == [ping]
