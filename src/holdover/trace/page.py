"""A trace as one self-contained HTML page, which a person can zoom and pan. The page loads nothing else."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files

import msgspec

from holdover.trace.rows import TraceRow, rows_of
from holdover.trace.trace import Interval, Shift, Trace


def page(trace: Trace) -> str:
    """The HTML document."""
    title = f"Handover of guest {trace.guest}: {trace.source} to {trace.destination}"
    data = msgspec.json.encode(_data(trace)).decode().replace("<", "\\u003c")
    figures = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in _figures(trace)
    )
    clocks = "".join(f"<p>{escape(_clock(shift, trace.source))}</p>" for shift in trace.shifts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_file('page.css')}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>Handover <code>{escape(trace.handover_id)}</code></p>"
        f'<div class="figures">{figures}</div><div id="tools"></div><div id="chart"></div>'
        '<p class="help">Wheel: zoom. Drag: pan. Double click on a bar: zoom to it. Shift and wheel: scroll. '
        "Keys: + and -, arrows, 0 for all.</p>"
        f'<section class="clocks">{clocks}</section>'
        f'<script type="application/json" id="trace">{data}</script><script>{_file("page.js")}</script>'
        "</body></html>\n"
    )


def _data(trace: Trace) -> dict[str, object]:
    """The data that the page's script draws; times are in milliseconds since the trace began."""
    still = trace.standstill
    return {
        "length": round((trace.ended - trace.began) * 1000, 4),
        "standstill": None if still is None else [_at(trace, still[0]), _at(trace, still[1])],
        "views": _views(trace),
        "rows": [_row(trace, row) for row in rows_of(trace)],
    }


def _row(trace: Trace, row: TraceRow) -> dict[str, object]:
    return {
        "host": row.host,
        "title": row.title,
        "lun": bool(row.lun),
        "bars": [
            [_at(trace, each.began), _at(trace, each.ended), each.name, each.kind.value, each.detail]
            for each in row.intervals
        ],
        "marks": [[_at(trace, each.at), each.name, each.detail] for each in row.instants],
    }


def _views(trace: Trace) -> list[tuple[str, float, float]]:
    """The parts of the time axis that get a button: title, begin and end of each."""
    views = []
    for title, host, first, last in (
        ("Prepare", trace.source, "state checking", "state confirming"),
        ("Commit", trace.source, "state leaving", "message commit"),
        ("Finish", trace.source, "state settling", "message finish"),
    ):
        begins = [each for each in trace.intervals if (each.host, each.name) == (host, first)]
        ends = [each for each in trace.intervals if (each.host, each.name) == (host, last)]
        after = [each for each in ends if begins and each.ended > begins[0].began]
        if begins and after:
            views.append((title, _at(trace, begins[0].began), _at(trace, after[0].ended)))
    if trace.standstill is not None:
        begin, end = trace.standstill
        views.append(("Standstill", _at(trace, begin), _at(trace, end)))
    return views


def _at(trace: Trace, at: float) -> float:
    return round((at - trace.began) * 1000, 4)


def _figures(trace: Trace) -> list[tuple[str, str]]:
    """The figures that people ask for first, each with its name."""
    figures = [("LUNs", str(len(trace.luns)))]
    figures += [(f"{title.lower()}", f"{end - begin:.1f} ms") for title, begin, end in _views(trace)]
    longest = max(
        (each for each in trace.intervals if each.lun), key=lambda each: each.milliseconds, default=None
    )
    if longest is not None:
        figures.append((_where(longest), f"{longest.milliseconds:.1f} ms"))
    return figures


def _where(longest: Interval) -> str:
    return f"longest round trip: {longest.name} on {longest.host}"


def _clock(shift: Shift, source: str) -> str:
    if shift.within is None:
        return (
            f"{shift.host}: it is not known how its clock and the clock of {source} differ; "
            "its times are shown as it reported them."
        )
    off = f"{shift.within * 1000:.2f} ms"
    if shift.seconds == 0:
        return f"{shift.host}: its clock agrees with the clock of {source}, to within {off}."
    return (
        f"{shift.host}: {shift.seconds * 1000:+.2f} ms were added to its times, to within {off}. So the work "
        f"for a message or a request lies within that message or request, by the clock of {source}."
    )


@cache
def _file(name: str) -> str:
    return files("holdover.trace").joinpath(name).read_text(encoding="utf-8")
