"""TransportIDs against the layouts of SPC-4 7.6.4."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.transport_id import (
    FcTransportID,
    IscsiTransportID,
    OtherTransportID,
    SasTransportID,
    TransportID,
    decode_transport_id,
)
from tests.scsi.strategies import decodes_or_says_why, transport_ids

EXAMPLES: list[tuple[TransportID, str, str]] = [
    (
        FcTransportID(bytes.fromhex("2100001b32a1b2c3")),
        "00" + "00" * 7 + "2100001b32a1b2c3" + "00" * 8,
        "fc 2100001b32a1b2c3",
    ),
    (
        SasTransportID(bytes.fromhex("500605b000a1b2c3")),
        "06000000" + "500605b000a1b2c3" + "00" * 12,
        "sas 500605b000a1b2c3",
    ),
    (
        # 19 characters and a NUL are exactly the least length.
        IscsiTransportID("iqn.2026-01.org.a:b"),
        "05000014" + b"iqn.2026-01.org.a:b\0".hex(),
        "iqn.2026-01.org.a:b",
    ),
    (
        IscsiTransportID("iqn.x", bytes.fromhex("80123456789a")),
        "45000018" + b"iqn.x,i,0x80123456789a\0\0".hex(),
        "iqn.x,i,0x80123456789a",
    ),
    (
        OtherTransportID(bytes.fromhex("04") + bytes(23)),
        "04" + "00" * 23,
        "transport 04" + "00" * 23,
    ),
]


@pytest.mark.parametrize(("identifier", "wire", "text"), EXAMPLES)
def test_layout(identifier: TransportID, wire: str, text: str) -> None:
    assert identifier.encode().hex() == wire
    assert decode_transport_id(bytes.fromhex(wire)) == (identifier, len(wire) // 2)
    assert str(identifier) == text


@given(transport_ids, st.binary(max_size=9), st.binary(max_size=9))
def test_decodes_what_it_encodes_wherever_it_stands(
    identifier: TransportID, before: bytes, after: bytes
) -> None:
    data = before + identifier.encode() + after
    assert len(identifier.encode()) % 4 == 0
    assert decode_transport_id(memoryview(data), len(before)) == (identifier, len(identifier.encode()))


@given(transport_ids)
def test_every_cut_is_an_error(identifier: TransportID) -> None:
    data = identifier.encode()
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            decode_transport_id(data[:length])


@given(st.binary(max_size=80) | st.builds(lambda tail: b"\x45\x00\x00\x18" + tail, st.binary(max_size=40)))
def test_any_bytes(data: bytes) -> None:
    decodes_or_says_why(decode_transport_id, data)


def test_the_first_nul_ends_an_iscsi_name() -> None:
    data = b"\x05\x00\x00\x14" + b"iqn.a\0left over".ljust(20, b"!")
    assert decode_transport_id(data) == (IscsiTransportID("iqn.a"), 24)


def test_an_isid_may_lack_leading_zeros() -> None:
    data = b"\x45\x00\x00\x14" + b"iqn.a,i,0x23D".ljust(20, b"\0")
    assert decode_transport_id(data)[0] == IscsiTransportID("iqn.a", bytes.fromhex("00000000023d"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x05\x00\x00\x10" + bytes(20), "additional length 16"),
        (b"\x05\x00\x00\x15" + bytes(21), "additional length 21"),
        (b"\x05\x00\x00\x18" + bytes(20), "24 bytes are left, 28 are needed"),
        (b"\x05\x00\x00\x14" + b"n" * 20, "has no NUL"),
        (b"\x05\x00\x00\x14" + bytes(20), "iSCSI name of 0 bytes"),
        (b"\x05\x00\x00\x14" + b"\xff".ljust(20, b"\0"), "utf-8"),
        (b"\x45\x00\x00\x14" + b"iqn.a".ljust(20, b"\0"), "port name has no"),
        (b"\x45\x00\x00\x14" + b"iqn.a,i,0x".ljust(20, b"\0"), "ISID ''"),
        (b"\x45\x00\x00\x14" + b"iqn.a,i,0x1_0".ljust(20, b"\0"), "ISID '1_0'"),
        (b"\x45\x00\x00\x18" + b"iqn.a,i,0x0123456789abc".ljust(24, b"\0"), "not 1 to 12"),
        (b"\x05\x00\x00\xe4" + b"n".ljust(224, b"n").ljust(228, b"\0"), "iSCSI name of 224 bytes"),
    ],
)
def test_malformed_iscsi_names(data: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        decode_transport_id(data)


@pytest.mark.parametrize(
    "build",
    [
        lambda: FcTransportID(bytes(7)),
        lambda: SasTransportID(bytes(9)),
        lambda: IscsiTransportID(""),
        lambda: IscsiTransportID("a\0b"),
        lambda: IscsiTransportID("iqn.a", bytes(5)),
        lambda: OtherTransportID(bytes(20)),
        lambda: OtherTransportID(bytes(26)),
    ],
)
def test_what_cannot_be_encoded_cannot_be_built(build: Callable[[], TransportID]) -> None:
    with pytest.raises(ValueError, match=r"bytes|NUL"):
        build()
