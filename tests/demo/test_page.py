"""The pictures of the demonstration's page: one axis, and labels that can be read."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise

import pytest

from holdover.demo.act import Act
from holdover.demo.page import page, ticks
from holdover.migrate.result import Progress
from tests.demo.test_timeline import act

LETTER = 7.0


def long_act(span: float, still: float, steps: list[float]) -> Act:
    """An act of ``span`` seconds; the guest stands still for ``still``; the steps have these lengths."""
    made = act(True, 0)
    recording = made.recording
    recording.began, recording.ended = 0.0, span
    recording.stopped, recording.resumed = span / 2, span / 2 + still
    at, recording.steps = span / 2, []
    for number, length in enumerate(steps):
        at += length
        end = Progress(
            phase="commit",
            action=f"step {number}",
            host="host-b",
            state="done",
            at=at,
            milliseconds=length * 1000,
        )
        recording.steps.append((at, end))
    return made


def texts(picture: str) -> dict[float, list[tuple[float, float]]]:
    """Where the texts of a picture begin and end, by their line."""
    found: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for x, y, anchor, text in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)"(?: text-anchor="(\w+)")?>([^<]*)</text>', picture
    ):
        width = len(text) * LETTER
        begin = float(x) - {"middle": width / 2, "end": width}.get(anchor, 0.0)
        found[float(y)].append((begin, begin + width))
    return found


@pytest.mark.parametrize("span", [0.003, 0.9, 3.8, 40.0, 400.0])
@pytest.mark.parametrize("steps", [[0.001], [0.0001, 0.02, 0.0004], [12.0, 0.001, 3.0]])
@pytest.mark.parametrize("still", [0.0, 0.001, 0.5])
def test_no_label_touches_another_or_leaves_its_picture(
    span: float, steps: list[float], still: float
) -> None:
    for picture in re.findall(r"<svg.*?</svg>", page([long_act(span, still, steps)])):
        (width,) = re.findall(r'viewBox="0 0 (\d+)', picture)
        for line in texts(picture).values():
            assert all(begin >= 0 and end <= float(width) + LETTER for begin, end in line)
            ordered = sorted(line)
            assert all(one[1] <= other[0] for one, other in pairwise(ordered)), ordered


def test_all_steps_have_one_axis_that_begins_with_the_first() -> None:
    picture = re.findall(r"<svg.*?</svg>", page([long_act(4.0, 0.1, [0.001, 0.003])]))[1]
    bars = [
        (float(x), float(w)) for x, w in re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', picture)
    ]
    assert bars[0][0] + bars[0][1] == pytest.approx(bars[1][0], abs=0.1)
    assert bars[1][1] == pytest.approx(3 * bars[0][1], abs=0.1)
    assert "0 ms" in picture
    assert "4 ms" in picture


@pytest.mark.parametrize("span", [0.0031, 0.7, 1.0, 3.7, 40.0, 3600.0])
def test_an_axis_has_few_round_ticks(span: float) -> None:
    found = ticks(span)
    assert found[0] == 0
    assert found[-1] <= span
    assert 4 <= len(found) <= 13
