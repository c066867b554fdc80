"""Parameter data of PERSISTENT RESERVE IN against the layouts of SPC-4 6.15."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.reservation_in import (
    Capabilities,
    FullStatus,
    FullStatusDescriptor,
    ReadKeys,
    ReadReservation,
    Reservation,
    without_port_capabilities,
)
from holdover.scsi.reservation.transport_id import FcTransportID, IscsiTransportID
from tests.scsi.strategies import bits, decodes_or_says_why, keys, transport_ids, types

_flags = st.booleans()

read_keys = st.builds(ReadKeys, bits(32), st.lists(keys, max_size=6).map(tuple))
read_reservations = st.builds(
    ReadReservation, bits(32), st.none() | st.builds(Reservation, keys, types, bits(4))
)
capabilities = st.builds(
    Capabilities, _flags, _flags, _flags, _flags, _flags, bits(3), st.none() | st.frozensets(types), _flags
)
descriptors = st.builds(
    lambda key, identifier, port, every, held: FullStatusDescriptor(
        key, held is not None, identifier, port, every, *(held or (None, 0))
    ),
    keys,
    transport_ids,
    bits(16),
    _flags,
    st.none() | st.tuples(types, bits(4)),
)
full_statuses = st.builds(FullStatus, bits(32), st.lists(descriptors, max_size=4).map(tuple))


@given(read_keys | read_reservations | capabilities | full_statuses)
def test_decodes_what_it_encodes(data: ReadKeys | ReadReservation | Capabilities | FullStatus) -> None:
    assert type(data).decode(data.encode()) == data


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    for kind in (ReadKeys, ReadReservation, Capabilities, FullStatus, FullStatusDescriptor):
        decodes_or_says_why(kind.decode, data)


@given(st.integers(0, 7), st.binary(min_size=24, max_size=60), st.integers(0, 80))
def test_any_descriptor(generation: int, descriptor: bytes, additional: int) -> None:
    body = descriptor[:20] + additional.to_bytes(4, "big") + descriptor[24:]
    for length in (len(body), len(body) + 8, 24 + additional):
        data = generation.to_bytes(4, "big") + length.to_bytes(4, "big") + body
        decodes_or_says_why(FullStatus.decode, data)


class TestReadKeys:
    def test_layout(self) -> None:
        data = ReadKeys(0x01020304, (0x1122334455667788, 0xABC))
        assert data.encode().hex() == "010203040000001011223344556677880000000000000abc"
        assert ReadKeys(7, ()).encode().hex() == "0000000700000000"

    @given(read_keys)
    def test_every_cut_keeps_the_keys_that_are_whole(self, data: ReadKeys) -> None:
        whole = data.encode()
        for length in range(len(whole)):
            if length < 8:
                with pytest.raises(DecodeError, match="at least 8"):
                    ReadKeys.decode(whole[:length])
            else:
                cut = ReadKeys(data.generation, data.keys[: (length - 8) // 8], complete=False)
                assert ReadKeys.decode(whole[:length]) == cut

    def test_what_follows_is_not_read(self) -> None:
        assert ReadKeys.decode(ReadKeys(1, (5,)).encode() + bytes(8)) == ReadKeys(1, (5,))

    def test_a_length_that_splits_a_key(self) -> None:
        with pytest.raises(DecodeError, match="additional length 12"):
            ReadKeys.decode(bytes.fromhex("000000010000000c") + bytes(12))


class TestReadReservation:
    def test_layout(self) -> None:
        assert ReadReservation(3, None).encode().hex() == "0000000300000000"
        held = Reservation(0x1122334455667788, ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY, scope=2)
        assert ReadReservation(3, held).encode().hex() == "000000030000001011223344556677880000000000260000"

    @given(read_reservations)
    def test_every_cut_is_an_error(self, data: ReadReservation) -> None:
        whole = data.encode()
        for length in range(len(whole)):
            with pytest.raises(DecodeError):
                ReadReservation.decode(whole[:length])

    @pytest.mark.parametrize("number", [0, 2, 4, 9, 15])
    def test_reserved_types(self, number: int) -> None:
        data = bytearray(ReadReservation(1, Reservation(1, ReservationType.WRITE_EXCLUSIVE)).encode())
        data[21] = number
        with pytest.raises(DecodeError, match=f"type {number:X}h is reserved"):
            ReadReservation.decode(bytes(data))

    def test_additional_length_is_none_or_sixteen(self) -> None:
        with pytest.raises(DecodeError, match="additional length 8"):
            ReadReservation.decode(bytes.fromhex("0000000100000008") + bytes(16))


_NOTHING = Capabilities(crh=False, sip_c=False, atp_c=False, ptpl_c=False, ptpl_a=False)


class TestCapabilities:
    @pytest.mark.parametrize(
        ("capability", "octet", "value"),
        [
            (replace(_NOTHING, rlr_c=True), 2, 0x80),
            (replace(_NOTHING, crh=True), 2, 0x10),
            (replace(_NOTHING, sip_c=True), 2, 0x08),
            (replace(_NOTHING, atp_c=True), 2, 0x04),
            (replace(_NOTHING, ptpl_c=True), 2, 0x01),
            (replace(_NOTHING, types=frozenset()), 3, 0x80),
            (replace(_NOTHING, allow_commands=5), 3, 0x50),
            (replace(_NOTHING, ptpl_a=True), 3, 0x01),
        ],
    )
    def test_bits(self, capability: Capabilities, octet: int, value: int) -> None:
        expected = bytearray(bytes.fromhex("0008000000000000"))
        expected[octet] = value
        assert capability.encode() == bytes(expected)

    @pytest.mark.parametrize(
        ("kind", "mask"),
        [
            (ReservationType.WRITE_EXCLUSIVE, "0200"),
            (ReservationType.EXCLUSIVE_ACCESS, "0800"),
            (ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, "2000"),
            (ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY, "4000"),
            (ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, "8000"),
            (ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, "0001"),
        ],
    )
    def test_type_mask(self, kind: ReservationType, mask: str) -> None:
        data = Capabilities(False, False, False, False, False, types=frozenset({kind})).encode()
        assert data.hex() == f"00080080{mask}0000"

    def test_a_mask_that_is_not_valid_is_not_read(self) -> None:
        assert Capabilities.decode(bytes.fromhex("00080000ea010000")).types is None

    @given(capabilities)
    def test_every_cut_is_an_error(self, data: Capabilities) -> None:
        for length in range(8):
            with pytest.raises(DecodeError, match="8 are needed"):
                Capabilities.decode(data.encode()[:length])

    def test_short_by_its_own_length(self) -> None:
        with pytest.raises(DecodeError, match="length field 4"):
            Capabilities.decode(bytes.fromhex("0004ff0000000000"))


class TestWithoutPortCapabilities:
    @given(capabilities, st.integers(0, 8))
    def test_clears_two_bits_wherever_the_data_were_cut(self, data: Capabilities, length: int) -> None:
        whole = bytearray(data.encode())
        masked = without_port_capabilities(bytes(whole[:length]))
        whole[2] &= 0xF3
        assert masked == bytes(whole[:length])


class TestFullStatus:
    def test_layout(self) -> None:
        data = FullStatus(
            9,
            (
                FullStatusDescriptor(
                    0xABC,
                    True,
                    FcTransportID(b"12345678"),
                    0x0102,
                    type=ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
                    scope=1,
                ),
                FullStatusDescriptor(0xDEF, False, IscsiTransportID("iqn.a"), 3, all_target_ports=True),
            ),
        )
        assert data.encode().hex() == (
            "00000009" "00000060"
            "0000000000000abc" "00000000" "01" "17" "00000000" "0102" "00000018"
            + FcTransportID(b"12345678").encode().hex()
            + "0000000000000def" "00000000" "02" "00" "00000000" "0003" "00000018"
            + IscsiTransportID("iqn.a").encode().hex()
        )  # fmt: skip

    @given(full_statuses)
    def test_every_cut_keeps_the_descriptors_that_are_whole(self, data: FullStatus) -> None:
        whole = data.encode()
        ends = [8]
        for descriptor in data.descriptors:
            ends.append(ends[-1] + len(descriptor.encode()))
        for length in range(8, len(whole)):
            cut = FullStatus.decode(whole[:length])
            assert cut.descriptors == data.descriptors[: sum(end <= length for end in ends) - 1]
            assert not cut.complete

    def test_scope_and_type_of_no_holder_are_not_read(self) -> None:
        descriptor = FullStatusDescriptor(1, False, FcTransportID(b"12345678"), 1)
        data = bytearray(descriptor.encode())
        data[13] = 0x2F
        assert FullStatusDescriptor.decode(bytes(data)) == descriptor

    def test_a_holder_has_a_type(self) -> None:
        data = bytearray(FullStatusDescriptor(1, False, FcTransportID(b"12345678"), 1).encode())
        data[12] = 0x01
        with pytest.raises(DecodeError, match="type 0h is reserved"):
            FullStatusDescriptor.decode(bytes(data))
        with pytest.raises(ValueError, match="a holder needs a reservation type"):
            FullStatusDescriptor(1, True, FcTransportID(b"12345678"), 1)
