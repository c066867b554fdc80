"""A trace as lines for a terminal. One command that was sent to many LUNs at one time is one line."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass

from holdover.trace.trace import Interval, IntervalKind, Trace


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        at: When it began, in milliseconds since the trace began.
        milliseconds: How long it took; for several intervals, from the first beginning to the last end; None
            for an event.
        host: The host on which it happened.
        depth: The depth of the indentation: 0 for steps, 1 for states and messages, 2 and 3 for the work in
            them.
        what: The name of the interval or event.
        detail: For several intervals, the number of LUNs and the longest interval; else more information.
    """

    at: float
    milliseconds: float | None
    host: str
    depth: int
    what: str
    detail: str = ""


_DEPTHS = {
    IntervalKind.STEP: 0,
    IntervalKind.STATE: 1,
    IntervalKind.MESSAGE: 1,
    IntervalKind.WORK: 2,
    IntervalKind.JOURNAL: 2,
    IntervalKind.COMMAND: 3,
}


def lines_of(trace: Trace) -> tuple[Line, ...]:
    """All lines, in the order of their beginning."""
    zero = trace.began
    lines = [
        Line((each.at - zero) * 1000, None, each.host, 1, each.name, each.detail) for each in trace.instants
    ]
    lines += [
        _line([each], zero, each.detail) for each in trace.intervals if each.kind is not IntervalKind.COMMAND
    ]
    lines += [_line(group, zero, _luns(group)) for group in _sent_together(trace)]
    return tuple(sorted(lines, key=lambda line: (line.at, line.depth)))


def _sent_together(trace: Trace) -> list[list[Interval]]:
    """The round trips in groups that were sent together.

    The round trips of a group belong to the same work, have the same name, and each is the n-th of that name
    on its LUN, with the same n.
    """
    works: dict[str, list[float]] = {}
    for each in trace.intervals:
        if each.kind is IntervalKind.WORK:
            works.setdefault(each.host, []).append(each.began)
    groups: dict[tuple[str, int, str, int], list[Interval]] = {}
    times: Counter[tuple[str, int, str, str]] = Counter()
    for each in trace.intervals:
        if each.kind is IntervalKind.COMMAND:
            work = bisect_right(works.get(each.host, []), each.began)
            times[each.host, work, each.name, each.lun] += 1
            nth = times[each.host, work, each.name, each.lun]
            groups.setdefault((each.host, work, each.name, nth), []).append(each)
    return list(groups.values())


def _line(group: list[Interval], zero: float, detail: str) -> Line:
    first, last = group[0].began, max(each.ended for each in group)
    depth = _DEPTHS[group[0].kind]
    return Line((first - zero) * 1000, (last - first) * 1000, group[0].host, depth, group[0].name, detail)


def _luns(group: list[Interval]) -> str:
    longest = max(group, key=lambda each: each.milliseconds)
    if len(group) == 1:
        return longest.lun
    return f"{len(group)} LUNs, longest {longest.milliseconds:.2f} ms ({longest.lun})"
