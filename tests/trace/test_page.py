"""The page: self-contained, with all that the script draws."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from holdover.trace.page import page
from holdover.trace.trace import assemble
from tests.trace.traces import destination, handover, source


def data_of(text: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="trace">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    document = json.loads(found.group(1))
    assert isinstance(document, dict)
    return document


def test_it_fetches_nothing() -> None:
    text = page(handover())
    assert not re.search(r"(src|href)\s*=|url\(|@import|fetch\(|XMLHttpRequest", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_it_has_every_interval_and_tells_of_the_clocks() -> None:
    trace = handover()
    text = page(trace)
    data = data_of(text)
    rows = data["rows"]
    assert isinstance(rows, list)
    assert sum(len(row["bars"]) for row in rows) == len(trace.intervals)
    assert data["length"] == pytest.approx(1011, abs=1.5)
    assert isinstance(data["views"], list)
    assert [view[0] for view in data["views"]] == ["Commit", "Standstill"]
    assert "b: -100000.00 ms were added to its times, to within 1.00 ms" in text
    assert "holdover migrate: its clock agrees with the clock of a" in text


def test_names_cannot_break_out() -> None:
    here = source()
    evil = "</script><script>alert(1)</script>"
    named = tuple(replace(each, lun=evil if each.lun else "") for each in here.intervals)
    text = page(assemble(evil, "h1", replace(here, intervals=named), destination()))
    assert evil not in text
    assert text.count("</script>") == 2


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_browser_draws_it(tmp_path: Path) -> None:
    file = tmp_path / "trace.html"
    file.write_text(page(handover()), encoding="utf-8")
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            f"--user-data-dir={tmp_path / 'profile'}",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    drawn = re.search(r'<div id="chart"><svg.*?</svg>', done.stdout, re.DOTALL)
    assert drawn is not None
    # a bar for each interval, and a mark for each event
    assert drawn.group().count("<rect ") >= len(handover().intervals)
    assert drawn.group().count("<path ") == len(handover().instants)
    assert "naa.2" in drawn.group()
