"""The rows in which a trace is drawn: for each host its states, messages, journal and LUNs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holdover.trace.trace import Instant, Interval, Kind, Trace

__all__ = ["Row", "rows_of"]

_TITLES = {
    Kind.STEP: "steps",
    Kind.STATE: "state",
    Kind.WORK: "work on all LUNs",
    Kind.MESSAGE: "messages",
    Kind.JOURNAL: "journal",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row; no two of its intervals overlap, but for one that ends as the next begins."""

    host: str
    title: str
    lun: str = ""
    intervals: tuple[Interval, ...] = ()
    instants: tuple[Instant, ...] = ()


def rows_of(trace: Trace) -> tuple[Row, ...]:
    """All rows: the driver's, the source's, the destination's."""
    rows: list[Row] = []
    hosts = [trace.driver] if trace.driver else []
    for host in dict.fromkeys([*hosts, trace.source, trace.destination]):
        mine = [each for each in trace.intervals if each.host == host]
        happened = tuple(each for each in trace.instants if each.host == host)
        if happened:
            rows.append(Row(host, "QEMU's events", instants=happened))
        for kind, title in _TITLES.items():
            rows += _packed(Row(host, title), (each for each in mine if each.kind is kind))
        for lun in trace.luns:
            commands = (each for each in mine if each.kind is Kind.COMMAND and each.lun == lun)
            rows += _packed(Row(host, lun, lun), commands)
    return tuple(rows)


def _packed(row: Row, intervals: Iterable[Interval]) -> list[Row]:
    """As few rows as let nothing overlap; intervals come in the order of their beginning."""
    lanes: list[list[Interval]] = []
    for each in intervals:
        for lane in lanes:
            if lane[-1].ended <= each.began:
                lane.append(each)
                break
        else:
            lanes.append([each])
    return [Row(row.host, row.title, row.lun, tuple(lane)) for lane in lanes]
