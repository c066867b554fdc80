"""The rows of a drawn trace: for each host its states, its messages, its journal and its LUNs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holdover.trace.trace import Instant, Interval, IntervalKind, Trace

_TITLES = {
    IntervalKind.STEP: "steps",
    IntervalKind.STATE: "state",
    IntervalKind.WORK: "work on all LUNs",
    IntervalKind.MESSAGE: "messages",
    IntervalKind.JOURNAL: "journal",
}


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One row. Its intervals do not overlap; one may end at the instant at which the next begins."""

    host: str
    title: str
    lun: str = ""
    intervals: tuple[Interval, ...] = ()
    instants: tuple[Instant, ...] = ()


def rows_of(trace: Trace) -> tuple[TraceRow, ...]:
    """All rows, in this order: those of the driver, of the source, of the destination."""
    rows: list[TraceRow] = []
    hosts = [trace.driver] if trace.driver else []
    for host in dict.fromkeys([*hosts, trace.source, trace.destination]):
        mine = [each for each in trace.intervals if each.host == host]
        happened = tuple(each for each in trace.instants if each.host == host)
        if happened:
            rows.append(TraceRow(host, "QEMU's events", instants=happened))
        for kind, title in _TITLES.items():
            rows += _packed(TraceRow(host, title), (each for each in mine if each.kind is kind))
        for lun in trace.luns:
            commands = (each for each in mine if each.kind is IntervalKind.COMMAND and each.lun == lun)
            rows += _packed(TraceRow(host, lun, lun), commands)
    return tuple(rows)


def _packed(row: TraceRow, intervals: Iterable[Interval]) -> list[TraceRow]:
    """The fewest rows in which no intervals overlap. The intervals come in the order of their beginning."""
    lanes: list[list[Interval]] = []
    for each in intervals:
        for lane in lanes:
            if lane[-1].ended <= each.began:
                lane.append(each)
                break
        else:
            lanes.append([each])
    return [TraceRow(row.host, row.title, row.lun, tuple(lane)) for lane in lanes]
