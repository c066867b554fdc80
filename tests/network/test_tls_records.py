"""Where TLS records end."""

from __future__ import annotations

import pytest

from holdover.network.tls_records import whole_records

RECORD = bytes.fromhex("1703030003") + b"abc"
EMPTY = bytes.fromhex("1703030000")


@pytest.mark.parametrize(
    ("received", "most", "whole"),
    [
        (b"", None, 0),
        (RECORD[:4], None, 0),
        (RECORD[:7], None, 0),
        (RECORD, None, 8),
        (RECORD + EMPTY + RECORD[:6], None, 13),
        (RECORD * 5, 2, 16),
        (RECORD * 2, 2, 16),
        (RECORD + RECORD[:6], 2, 8),
        (RECORD + b"GET / HTTP/1.1", None, 22),
        (RECORD + b"GET / HTTP/1.1", 1, 8),
        (RECORD + bytes.fromhex("170303ffff"), None, 13),
    ],
)
def test_the_whole_records_at_the_beginning(received: bytes, most: int | None, whole: int) -> None:
    assert whole_records(bytearray(received), most) == whole
