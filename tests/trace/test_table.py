"""A trace as lines."""

from __future__ import annotations

import pytest

from holdover.trace.table import lines_of
from tests.trace.traces import handover


def test_one_command_on_many_luns_is_one_line_and_its_repetition_another() -> None:
    lines = lines_of(handover())
    reads = [line for line in lines if line.what == "READ KEYS"]
    assert [round(line.at, 1) for line in reads] == [3.0, 6.0]
    assert all("2 LUNs" in line.detail for line in reads)
    (preempt,) = (line for line in lines if line.what == "PREEMPT")
    assert preempt.milliseconds == pytest.approx(1.5)
    assert preempt.detail == "2 LUNs, longest 1.50 ms (naa.2)"
    assert preempt.depth == 3


def test_lines_come_in_order_with_qemus_events() -> None:
    lines = lines_of(handover())
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    assert lines[0].what == "prepare"
    assert lines[0].at == 0
    (stop,) = (line for line in lines if line.what == "STOP")
    assert stop.milliseconds is None
    (completed,) = (line for line in lines if line.what == "MIGRATION")
    assert completed.detail == "completed"
