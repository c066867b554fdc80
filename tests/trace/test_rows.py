"""The rows of a trace."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from holdover.trace.rows import rows_of
from holdover.trace.trace import Interval, assemble
from tests.trace.traces import destination, handover, source


def test_hosts_come_in_order_with_their_luns_last() -> None:
    found = [(row.host, row.title) for row in rows_of(handover())]
    assert found == [
        ("holdover migrate", "steps"),
        ("a", "QEMU's events"),
        ("a", "state"),
        ("a", "work on all LUNs"),
        ("a", "messages"),
        ("a", "journal"),
        ("a", "naa.1"),
        ("a", "naa.2"),
        ("b", "QEMU's events"),
        ("b", "state"),
        ("b", "work on all LUNs"),
        ("b", "naa.1"),
        ("b", "naa.2"),
    ]


def test_nothing_overlaps_in_a_row_and_nothing_is_lost() -> None:
    here = source()
    beside = Interval("READ KEYS", "a", "naa.1", 10.003, 10.006)
    trace = assemble("db1", "h1", replace(here, intervals=(*here.intervals, beside)), destination())
    rows = rows_of(trace)
    assert [row.title for row in rows if row.host == "a" and row.lun == "naa.1"] == ["naa.1", "naa.1"]
    for row in rows:
        assert all(one.ended <= other.began for one, other in pairwise(row.intervals))
    assert sum(len(row.intervals) for row in rows) == len(trace.intervals)
    assert sum(len(row.instants) for row in rows) == len(trace.instants)
