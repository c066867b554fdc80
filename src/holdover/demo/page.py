"""The timeline as one self-contained HTML page: no script, no font, nothing to fetch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from holdover.demo.act import Act
from holdover.demo.timeline import Bucket, buckets, steps_of

_WIDTH, _LEFT, _LANE, _GAP = 1100, 150, 46, 14
_COLUMNS = 240
_LETTER = 7.0
"""The width of a letter at most, in the units of the pictures."""
_MARGIN = 200
"""Room at the right of the steps, for the host and the milliseconds of each."""
_TICKS = 12
"""The most ticks of an axis: so many labels stand beside one another without touching."""
_GOOD, _BAD, _QUIET, _STILL = "#2e9e5b", "#d33f49", "#9aa5b1", "#e8b23a"
_STEP_COLOURS = ("#3f6fd1", "#8757c9", "#1f9aa8", "#c2571a", "#5d6d7e")

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#1c2733}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;margin:.8rem 0}
td,th{padding:.25rem .9rem;border-bottom:1px solid #dde3ea;text-align:right}
td:first-child,th:first-child{text-align:left}
.bad{color:#d33f49;font-weight:600}.good{color:#2e9e5b;font-weight:600}
svg{width:100%;height:auto;background:#f7f9fb;border-radius:8px}
svg text{font:12px system-ui,sans-serif;fill:#1c2733}
.key span{display:inline-block;width:.9em;height:.9em;border-radius:2px;
margin:0 .35em 0 1.2em;vertical-align:-.08em}
"""


def page(acts: list[Act]) -> str:
    """The whole page."""
    body = "".join(_act(act) for act in acts)
    key = "".join(
        f'<span style="background:{colour}"></span>{text}'
        for colour, text in (
            (_GOOD, "the guest's write accepted"),
            (_BAD, "the guest's write refused, or the intruder's accepted"),
            (_QUIET, "the intruder's write refused"),
            (_STILL, "the guest stands still"),
        )
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Holdover: a migration, twice</title>'
        f"<style>{_STYLE}</style><h1>A live migration, without Holdover and with it</h1>"
        "<p>A guest holds a persistent reservation (write exclusive, registrants only) on a shared LUN and "
        "writes without pause. An intruder that registered nothing keeps trying to write over its blocks. "
        f"Halfway the guest moves from host-a to host-b.</p>"
        f'<p class="key">{key}</p>{body}{_table(acts)}</html>\n'
    )


def _act(act: Act) -> str:
    setting = "on" if act.migrate_pr else "off"
    what = "the reservation moves along" if act.migrate_pr else "the reservation stays behind"
    return f"<h2>migrate-pr={setting}: {what}</h2>{_timeline(act)}{_steps(act)}"


def _timeline(act: Act) -> str:
    recording = act.recording
    span = max(recording.ended or recording.now, 0.001)
    scale = (_WIDTH - _LEFT) / span
    parts = [
        _lane(0, "guest's writes", buckets(recording, "guest", _COLUMNS, span), _GOOD, _BAD),
        _lane(1, "intruder's writes", buckets(recording, "intruder", _COLUMNS, span), _BAD, _QUIET),
        _host_lane(act, scale, span),
    ]
    height = 3 * (_LANE + _GAP) + 36
    parts += _axis(span, scale, height, "s", 1.0)
    return f'<svg viewBox="0 0 {_WIDTH + 20} {height}" role="img">{"".join(parts)}</svg>'


def ticks(span: float) -> list[float]:
    """Round numbers from 0 to ``span``, at most `_TICKS` steps apart: 1, 2 or 5 times a power of ten."""
    least = span / _TICKS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= least)
    return [number * step for number in range(int(span / step) + 1)]


def _axis(span: float, scale: float, height: int, unit: str, factor: float) -> Iterator[str]:
    """The axis of a picture of ``span`` seconds, in a unit that is 1/``factor`` of a second."""
    for tick in ticks(span * factor):
        x = _LEFT + tick / factor * scale
        yield (
            f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 22}" stroke="#c9d2dc" stroke-width=".5"/>'
            f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{tick:g} {unit}</text>'
        )


def _lane(row: int, name: str, lane: list[Bucket], accepted: str, refused: str) -> str:
    top = _GAP + row * (_LANE + _GAP)
    width = (_WIDTH - _LEFT) / len(lane)
    highest = max((bucket.accepted + bucket.refused for bucket in lane), default=0) or 1
    parts = [f'<text x="8" y="{top + _LANE / 2 + 4:.0f}">{escape(name)}</text>']
    for column, bucket in enumerate(lane):
        bottom = float(top + _LANE)
        for count, colour in ((bucket.refused, refused), (bucket.accepted, accepted)):
            if count:
                high = max(count / highest * _LANE, 3.0)
                bottom -= high
                x = _LEFT + column * width
                parts.append(
                    f'<rect x="{x:.2f}" y="{bottom:.2f}" width="{width:.2f}" '
                    f'height="{high:.2f}" fill="{colour}">'
                    f"<title>{bucket.accepted} accepted, {bucket.refused} refused</title></rect>"
                )
    return "".join(parts)


def _host_lane(act: Act, scale: float, span: float) -> str:
    top = _GAP + 2 * (_LANE + _GAP)
    stopped = act.recording.stopped if act.recording.stopped is not None else span
    resumed = act.recording.resumed if act.recording.resumed is not None else span
    parts = [f'<text x="8" y="{top + _LANE / 2 + 4:.0f}">the guest is on</text>']
    for begin, end, colour, name in (
        (0.0, stopped, "#cfe0f5", "host-a"),
        (stopped, resumed, _STILL, f"stands still for {(resumed - stopped) * 1000:.1f} ms"),
        (resumed, span, "#e3d5f2", "host-b"),
    ):
        x, width = _LEFT + begin * scale, max((end - begin) * scale, 1.5)
        label = (
            f'<text x="{x + 8:.1f}" y="{top + _LANE / 2 + 4:.0f}">{escape(name)}</text>'
            if width > len(name) * _LETTER + 8
            else ""
        )
        parts.append(
            f'<rect x="{x:.2f}" y="{top}" width="{width:.2f}" height="{_LANE}" fill="{colour}">'
            f"<title>{escape(name)}</title></rect>{label}"
        )
    return "".join(parts)


def _steps(act: Act) -> str:
    """All steps on one axis, which begins with the first; how long each took stands at the right."""
    steps = steps_of(act.recording)
    if not steps:
        return ""
    first, last = min(step[2] for step in steps), max(step[3] for step in steps)
    span = max(last - first, 0.0001)
    scale = (_WIDTH - _LEFT - _MARGIN) / span
    height = len(steps) * 22 + 36
    parts = list(_axis(span, scale, height, "ms", 1000.0))
    for row, (name, host, begin, end) in enumerate(steps):
        y, x = 6 + row * 22, _LEFT + (begin - first) * scale
        width = max((end - begin) * scale, 1.5)
        label = f"{name} on {host}" if host else name
        parts.append(
            f'<text x="8" y="{y + 13}">{escape(name)}</text>'
            f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="16" rx="2" '
            f'fill="{_STEP_COLOURS[row % len(_STEP_COLOURS)]}"><title>{escape(label)}</title></rect>'
            f'<text x="{_WIDTH + 10}" y="{y + 13}" text-anchor="end">'
            f"{escape(host)} {(end - begin) * 1000:.2f} ms</text>"
        )
    return f'<svg viewBox="0 0 {_WIDTH + 20} {height}" role="img">{"".join(parts)}</svg>'


def _table(acts: list[Act]) -> str:
    heads = "".join(f"<th>migrate-pr={'on' if act.migrate_pr else 'off'}</th>" for act in acts)
    rows = [
        _row("guest's writes accepted", [str(act.sums.guest_writes) for act in acts]),
        _row("guest's writes refused", [_judged(act.sums.guest_write_errors) for act in acts]),
        _row("intruder's writes accepted", [_judged(act.sums.intruder_writes_accepted) for act in acts]),
        _row("intruder's writes refused", [str(act.sums.intruder_writes_refused) for act in acts]),
        _row("blocks verified", [str(act.sums.blocks_verified) for act in acts]),
        _row("blocks damaged", [_judged(act.sums.blocks_damaged) for act in acts]),
        _row("holder before", [escape(act.sums.holder_before or "nobody") for act in acts]),
        _row("holder after", [escape(act.sums.holder_after or "nobody") for act in acts]),
        _row("guest stood still", [f"{act.sums.standstill_ms:.1f} ms" for act in acts]),
    ]
    return f"<h2>In figures</h2><table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


def _judged(count: int) -> str:
    return f'<span class="{"bad" if count else "good"}">{count}</span>'


def _row(name: str, cells: list[str]) -> str:
    return f"<tr><td>{escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
