"""How much of a request may come, and how long that may take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdover.api.request_bounds import HEADER_BYTES, HEADER_SECONDS, REQUEST_SECONDS, RequestBounds


def feed(bounds: RequestBounds, count: int, now: float = 0.0) -> int:
    """Bytes that were let through to the parser, of a header without an end."""
    passed = 0
    while passed < count and bounds.next_piece:
        piece = min(count - passed, bounds.next_piece)
        bounds.received(piece, now)
        passed += piece
    return passed


@given(st.lists(st.integers(1, 100_000), max_size=20))
def test_a_header_without_end_is_not_parsed_beyond_its_bound(chunks: list[int]) -> None:
    bounds = RequestBounds(0.0)
    passed = sum(feed(bounds, chunk) for chunk in chunks)
    assert passed == min(sum(chunks), HEADER_BYTES)


@given(st.lists(st.integers(1, HEADER_BYTES), min_size=1, max_size=10), st.integers(0, 1 << 20))
def test_headers_within_the_bound_pass_one_after_another(headers: list[int], body: int) -> None:
    bounds = RequestBounds(0.0)
    for header in headers:
        assert feed(bounds, header) == header
        bounds.header_ended()
        assert feed(bounds, body) == body
        bounds.request_ended()


def test_what_is_awaited_has_its_time() -> None:
    bounds = RequestBounds(100.0)
    assert bounds.deadline == 100 + HEADER_SECONDS  # nothing has come yet
    bounds.received(1, 105.0)
    bounds.received(1, 109.0)
    assert bounds.deadline == 105 + HEADER_SECONDS  # whatever came since the first byte
    bounds.header_ended()
    bounds.received(1, 130.0)
    assert bounds.deadline == 105 + REQUEST_SECONDS
    bounds.request_ended()
    assert bounds.deadline is None  # a connection that waits for its next request may wait for a day
    bounds.header_began(5000.0)
    assert bounds.deadline == 5000 + HEADER_SECONDS
