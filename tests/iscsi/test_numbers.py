"""Serial number arithmetic."""

from __future__ import annotations

import pytest

from holdover.iscsi.numbers import serial_distance


@pytest.mark.parametrize(
    ("start", "end", "distance"),
    [(5, 5, 0), (5, 8, 3), (8, 5, -3), (0xFFFFFFFF, 1, 2), (1, 0xFFFFFFFF, -2), (0, 0x80000000, -(2**31))],
)
def test_distance(start: int, end: int, distance: int) -> None:
    assert serial_distance(start, end) == distance
