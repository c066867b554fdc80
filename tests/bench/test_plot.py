from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from bench.plot import Panel, Point, Series, draw_bars, draw_svg, ticks

ONE = Series("one & only", (Point(1, 10, 8, 12), Point(4, 20, 18, 25), Point(64, 500, 450, 550)))
OTHER = Series("other", (Point(1, -2, -5, 1), Point(64, 5, 4, 6)))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("most", "wanted"),
    [
        (10, [0, 2.5, 5, 7.5, 10]),
        (101, [0, 25, 50, 75, 100, 125]),
        (0.7, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (2050, [0, 500, 1000, 1500, 2000, 2500]),
        (0, [0, 1]),
    ],
)
def test_ticks_are_round_and_reach_the_most(most: float, wanted: list[float]) -> None:
    assert ticks(most) == pytest.approx(wanted)


def test_a_plot_is_a_drawing_of_all_points_in_order() -> None:
    drawn = draw_svg("title", "LUNs", "ms", [Panel("a", (ONE, OTHER))])
    root = ElementTree.fromstring(drawn)  # noqa: S314 - made in the line above
    lines = root.findall(f".//{SVG}polyline")
    assert len(lines) == 2
    ways = [
        [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()] for line in lines
    ]
    assert [x for x, _ in ways[0]] == sorted(x for x, _ in ways[0])
    # further up is less y
    assert [y for _, y in ways[0]] == sorted((y for _, y in ways[0]), reverse=True)
    assert ways[0][0][0] == ways[1][0][0]
    assert len(root.findall(f".//{SVG}circle")) == 5


def test_x_goes_by_powers_of_two_and_what_is_below_0_stands_at_0() -> None:
    series = Series("s", (Point(1, -3, -3, -3), Point(4, 8, 8, 8), Point(16, 0, 0, 0)))
    drawn = draw_svg("t", "x", "y", [Panel("p", (series,))])
    found = re.search(r'polyline points="([^"]+)"', drawn)
    assert found is not None
    first, second, third = (tuple(map(float, place.split(","))) for place in found[1].split())
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.2)
    assert first[1] == third[1] > second[1]


def test_words_are_escaped_and_names_stand_in_the_legend_once() -> None:
    drawn = draw_svg("<t>", "x", "y", [Panel("a", (ONE,)), Panel("b", (ONE, OTHER))])
    assert "&lt;t&gt;" in drawn
    assert drawn.count(">one &amp; only<") == 1


def test_a_single_point_and_a_panel_without_any_are_drawn() -> None:
    panels = [Panel("a", (Series("s", (Point(1, 1, 1, 1),)),)), Panel("b", ())]
    assert draw_svg("t", "x", "y", panels).count("<circle") == 1
    assert "b" not in draw_bars("x", "ms", panels).splitlines()


def test_bars_are_as_long_as_what_they_show() -> None:
    lines = draw_bars("LUNs", "ms", [Panel("panel", (ONE, OTHER))]).splitlines()
    assert lines[0] == "panel"
    assert lines[1].split() == ["1", "LUNs", "one", "&", "only", "█", "10.0", "ms"]
    assert lines[2].split() == ["other", "▏", "-2.0", "ms"]
    assert lines[4].count("█") == 48
    assert len(lines) == 6
