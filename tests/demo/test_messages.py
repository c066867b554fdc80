"""What the demonstration's processes tell each other."""

from __future__ import annotations

import pytest

from holdover.demo.messages import (
    Connect,
    End,
    OpenDisk,
    Order,
    Ready,
    Report,
    Said,
    Stop,
    Tick,
    decode_order,
    decode_said,
    encode,
)


@pytest.mark.parametrize("order", [OpenDisk("u"), Connect("u"), Stop(), End()])
def test_orders_arrive_as_they_were_given(order: Order) -> None:
    line = encode(order)
    assert line.count(b"\n") == 1
    assert decode_order(line) == order


@pytest.mark.parametrize("said", [Tick(1.5, "guest", 1, 2, "BUSY"), Ready(2.0), Report("guest", 1, 2, 3, 4)])
def test_reports_arrive_as_they_were_said(said: Said) -> None:
    assert decode_said(encode(said)) == said
