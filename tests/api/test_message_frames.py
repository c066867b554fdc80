"""Frames: whatever pieces they come in, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.api.message_frames import Frame, FrameError, FrameKind, FrameReader
from holdover.api.request_bounds import LARGEST_BODY

frames = st.builds(Frame, st.integers(0, 0xFFFFFFFF), st.sampled_from(FrameKind), st.binary(max_size=40))


@given(st.lists(frames, max_size=5), st.lists(st.integers(0, 60), max_size=8))
def test_frames_come_whole_in_whatever_pieces(sent: list[Frame], cuts: list[int]) -> None:
    data, reader, found, at = b"".join(each.encode() for each in sent), FrameReader(), [], 0
    for cut in sorted(cuts):
        found += reader.feed(data[at : max(at, cut)])
        at = max(at, min(cut, len(data)))
    found += reader.feed(data[at:])
    assert found == sent
    assert not reader.is_within


def test_a_frame_that_has_begun_is_awaited() -> None:
    reader = FrameReader()
    assert reader.feed(Frame(1, FrameKind.ANSWER, b"{}").encode()[:-1]) == []
    assert reader.is_within


def test_a_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    with pytest.raises(FrameError, match="at most"):
        FrameReader().feed((LARGEST_BODY + 1).to_bytes(4, "big") + bytes(5))


def test_a_frame_of_no_known_kind_is_refused() -> None:
    with pytest.raises(FrameError, match="kind 9"):
        FrameReader().feed(bytes(8) + b"\x09")
