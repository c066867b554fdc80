"""Hypothesis strategies for the structures of `holdover.scsi`, and the checks that every codec shares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hypothesis import strategies as st

from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.transport_id import (
    FcTransportID,
    IscsiTransportID,
    OtherTransportID,
    SasTransportID,
    TransportID,
)


def bits(width: int) -> st.SearchStrategy[int]:
    """Unsigned numbers of so many bits."""
    return st.integers(0, (1 << width) - 1)


def exactly(length: int) -> st.SearchStrategy[bytes]:
    """So many bytes."""
    return st.binary(min_size=length, max_size=length)


keys = bits(64)
types = st.sampled_from(ReservationType)

iscsi_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=55)

_other_raw = st.builds(
    lambda first, rest: bytes([first]) + rest, st.sampled_from([0x01, 0x04, 0x0A, 0x46]), exactly(23)
) | st.integers(5, 12).flatmap(
    lambda words: st.builds(
        lambda first, rest: bytes([first, 0]) + (4 * words).to_bytes(2, "big") + rest,
        st.sampled_from([0x85, 0xC5]),
        exactly(4 * words),
    )
)

transport_ids: st.SearchStrategy[TransportID] = st.one_of(
    st.builds(FcTransportID, exactly(8)),
    st.builds(SasTransportID, exactly(8)),
    st.builds(IscsiTransportID, iscsi_names, st.none() | exactly(6)),
    st.builds(OtherTransportID, _other_raw),
)


def decodes_or_says_why(decode: Callable[[bytes], object], data: bytes) -> None:
    """Decoding ends well or in DecodeError; any other error goes on to the test."""
    with contextlib.suppress(DecodeError):
        decode(data)
