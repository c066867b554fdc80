"""The alert rules and the dashboard: `promtool` takes them, and they ask only for metrics that exist."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from holdover.agent.monitoring.monitor import Monitor
from holdover.metrics.definitions import METRICS, MetricType
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, san

MONITORING = Path(__file__).parents[2] / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
PAGE = (MONITORING.parent / "docs" / "how-to" / "monitoring.md").read_text()


def series() -> dict[str, set[str]]:
    """Each name that a query may have, with its labels."""
    found: dict[str, set[str]] = {}
    for each in METRICS:
        labels = {"instance", "job", *each.labels}
        if each.kind is MetricType.HISTOGRAM:
            found |= {f"{each.name}_{part}": labels for part in ("count", "sum")}
            found[f"{each.name}_bucket"] = labels | {"le"}
        else:
            found[each.name] = labels
    return found


def panels() -> list[dict[str, Any]]:
    return [each for each in DASHBOARD["panels"] if each["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]] + [
        each["expr"] for each in RULES
    ]


@pytest.mark.parametrize("query", queries())
def test_queries_ask_for_metrics_that_exist(query: str) -> None:
    known = series()
    for name, matchers in re.findall(r"(holdover_\w+)(?:\{([^}]*)\})?", query):
        assert name in known
        assert set(re.findall(r"(\w+)=", matchers)) <= known[name], query
    for grouping in re.findall(r"by \(([^)]*)\)", query):
        names = re.findall(r"holdover_\w+", query)
        assert {label.strip() for label in grouping.split(",")} <= set().union(*(known[n] for n in names))


def test_every_metric_has_its_place_on_the_dashboard() -> None:
    shown = " ".join(queries())
    assert [each.name for each in METRICS if each.name not in shown] == []


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    places: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in places, (panel["title"], places[x, y])
                places[x, y] = panel["title"]
        assert at["x"] + at["w"] <= 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.peer("prometheus")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts-test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_promtool_takes_the_files(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_every_alert_is_tested_and_documented() -> None:
    tested = (MONITORING / "alerts-test.yml").read_text()
    for rule in RULES:
        assert f"alertname: {rule['alert']}\n" in tested
        assert f"| `{rule['alert']}` |" in PAGE


OF_TROUBLE = {
    "holdover_handover_in_doubt",
    "holdover_lun_stale",
    "holdover_peer_clock_skew_seconds",
    "holdover_peer_reachable",
}
"""Metrics without samples in a run in which nothing is wrong, and in which no peer has been asked yet."""


def test_a_run_has_every_metric_of_the_dashboard(tmp_path: Path) -> None:
    """No Grafana is packaged, so its queries are held against what an agent says in a handover."""

    async def test() -> list[str]:
        async with san(tmp_path, luns=2) as site:
            client, monitor = site.clients["host-a"], Monitor(site.hosts["host-a"])
            await reserved(site)
            await client.prepare(GUEST, "h1", "host-b")
            await client.commit(GUEST, "h1")
            pages = [await monitor.metrics()]
            await client.finish(GUEST, "h1")
            pages.append(await monitor.metrics())
            await monitor.close()
            return [page.decode() for page in pages]

    said = {
        name
        for page in asyncio.run(test())
        for family in text_string_to_metric_families(page)
        for name in _series_of(family)
    }
    asked = {name for query in queries() for name in re.findall(r"holdover_\w+", query)}
    assert asked - said == OF_TROUBLE


def _series_of(family: Metric) -> set[str]:
    """The names that a query may have for a family of metrics."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {f"{family.name}{ending}" for ending in endings.get(family.type, ("",))}
