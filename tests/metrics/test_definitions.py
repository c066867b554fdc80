"""The table of metrics keeps Prometheus' conventions, and the documentation has all of it."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from holdover.metrics.definitions import METRICS, MetricType
from holdover.metrics.durations import COMMAND_BOUNDS, Durations
from holdover.metrics.exposition import Sample, text_of

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()


def every_metric() -> bytes:
    odd = 'a "name"\\\n'
    return text_of(
        Sample(
            each,
            Durations(COMMAND_BOUNDS) if each.kind is MetricType.HISTOGRAM else 1.5,
            tuple(odd for _ in each.labels),
        )
        for each in METRICS
    )


def test_each_name_is_there_once() -> None:
    assert {name: n for name, n in Counter(each.name for each in METRICS).items() if n > 1} == {}


def test_a_page_has_every_metric_with_its_type_and_help() -> None:
    page = every_metric().decode()
    for each in METRICS:
        assert f"# TYPE {each.name} {each.kind.value}\n" in page
        assert f"# HELP {each.name} {each.says}\n" in page


@pytest.mark.peer("prometheus")
def test_promtool_finds_nothing_to_improve() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=every_metric(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_documentation_has_the_table() -> None:
    rows = re.findall(r"^\| `(holdover_\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|$", PAGE, re.MULTILINE)
    shown = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), says) for name, kind, labels, says in rows}
    assert shown == {each.name: (each.kind.value, each.labels, each.says) for each in METRICS}
