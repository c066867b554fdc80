"""Small line plots: panels side by side as SVG, and as bars for a terminal. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 300, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 40, 52
_LEGEND = 30
_COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#7d3c98", "#b9770e")
_BAR = 48


@dataclass(frozen=True, slots=True)
class Point:
    """A median ``y`` over ``x`` > 0, with the lowest and the highest figure."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """Points from left to right."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """Series over one pair of axes."""

    title: str
    series: tuple[Series, ...]


def ticks(most: float) -> list[float]:
    """Four to eight round numbers from 0 up; the last one is not below ``most``."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (10, 5, 2.5, 2, 1) if size * factor <= raw * (1 + 1e-9))
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def draw_svg(title: str, x_title: str, y_title: str, panels: Sequence[Panel]) -> str:
    """All panels in a row: x in powers of two, y from 0 up, and whiskers from low to high."""
    width = _WIDTH * len(panels)
    height = _HEIGHT + _LEGEND
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2:.0f}" y="16" text-anchor="middle" font-size="13">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * _WIDTH} 0)">')
        parts += _panel(panel, x_title, y_title if number == 0 else "", colours)
        parts.append("</g>")
    for number, name in enumerate(names):
        x, y = _LEFT + number * (width - _LEFT) / max(1, len(names)), _HEIGHT + 8
        line = f'stroke="{colours[name]}" stroke-width="2"'
        parts.append(f'<line x1="{x:.1f}" y1="{y}" x2="{x + 24:.1f}" y2="{y}" {line}/>')
        parts.append(f'<text x="{x + 30:.1f}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, x_title: str, y_title: str, colours: dict[str, str]) -> Iterator[str]:
    points = [point for series in panel.series for point in series.points]
    if not points:
        return
    xs = sorted({point.x for point in points})
    marks = ticks(max(point.high for point in points))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    span = math.log2(xs[-1] / xs[0]) or 1.0

    def across(x: float) -> float:
        return _LEFT + 10 + math.log2(x / xs[0]) / span * (right - _LEFT - 20)

    def up(y: float) -> float:
        return bottom - min(max(y, 0.0), marks[-1]) / marks[-1] * (bottom - _TOP)

    middle = (_LEFT + right) / 2
    yield f'<text x="{middle}" y="34" text-anchor="middle">{escape(panel.title)}</text>'
    for mark in marks:
        yield f'<line x1="{_LEFT}" y1="{up(mark):.1f}" x2="{right}" y2="{up(mark):.1f}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 5}" y="{up(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>'
    for x in xs:
        yield f'<text x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>'
    yield f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">{escape(x_title)}</text>'
    if y_title:
        place = f'transform="translate(14 {(_TOP + bottom) / 2:.0f}) rotate(-90)"'
        yield f'<text {place} text-anchor="middle">{escape(y_title)}</text>'
    for series in panel.series:
        colour = colours[series.name]
        way = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in series.points)
        yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for point in series.points:
            x = across(point.x)
            whisker = f'x1="{x:.1f}" y1="{up(point.low):.1f}" x2="{x:.1f}" y2="{up(point.high):.1f}"'
            yield f'<line {whisker} stroke="{colour}" stroke-opacity="0.5"/>'
            yield f'<circle cx="{x:.1f}" cy="{up(point.y):.1f}" r="3" fill="{colour}"/>'


def draw_bars(x_title: str, unit: str, panels: Sequence[Panel]) -> str:
    """Lines of text: a bar for each point, with its length in proportion to y within its panel."""
    lines = []
    for panel in panels:
        points = [point for series in panel.series for point in series.points]
        if not points:
            continue
        most = max([0.0, *(point.y for point in points)]) or 1.0
        width = max(len(series.name) for series in panel.series)
        lines.append(panel.title)
        for x in sorted({point.x for point in points}):
            for number, (name, point) in enumerate(_at(panel, x)):
                bar = "█" * round(max(point.y, 0.0) / most * _BAR) or "▏"
                where = f"{x:g} {x_title}" if number == 0 else ""
                lines.append(f"  {where:>10}  {name:<{width}}  {bar} {point.y:.1f} {unit}")
    return "\n".join(lines)


def _at(panel: Panel, x: float) -> Iterator[tuple[str, Point]]:
    for series in panel.series:
        for point in series.points:
            if point.x == x:
                yield series.name, point
