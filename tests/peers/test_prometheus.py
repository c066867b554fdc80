"""A real Prometheus asks a running agent, with the alert rules and the dashboard's queries."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdover.metrics.definitions import METRICS, MetricType
from tests.rig.hosts import until
from tests.rig.processes import Rig, free_port

pytestmark = pytest.mark.peer("prometheus")

MONITORING = Path(__file__).parents[2] / "monitoring"
NAMED = {"holdover_lun_stale", "holdover_gate_held_seconds", "holdover_handover_in_doubt"}
"""These are there while something is wrong with a guest."""
OF_PEERS = {
    "holdover_peer_reachable",
    "holdover_peer_clock_skew_seconds",
    "holdover_certificate_expiry_timestamp_seconds",
}


def ask(port: int, path: str, **query: str) -> Any:
    text = urllib.parse.urlencode(query)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{text}", timeout=600) as answer:
        return json.load(answer)["data"]


def test_prometheus_reads_an_agent_and_the_dashboard_finds_its_metrics(rig: Rig, tmp_path: Path) -> None:
    port, listen = free_port(), free_port()
    file = tmp_path / "agent.toml"
    file.write_text(
        f'name = "host-a"\ninitiator = "iqn.2026-11.org.example:host-a"\nstate-dir = "{tmp_path}/state"\n'
        f'api.listen = "unix:{tmp_path}/api.sock"\nmetrics.listen = "127.0.0.1:{listen}"\n'
    )
    rig.start("agent", ["agent", "--config", str(file)], ports=[f"unix:{tmp_path}/api.sock", listen])
    settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    settings["global"]["scrape_interval"] = settings["global"]["evaluation_interval"] = "1s"
    settings["rule_files"] = [str(MONITORING / "alerts.yml")]
    own = settings["scrape_configs"][0]
    own["static_configs"][0]["targets"] = [f"127.0.0.1:{listen}"]
    settings["scrape_configs"] = [own]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with subprocess.Popen(
        [
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as prometheus:
        try:
            until(lambda: is_up(port), "Prometheus does not read the agent")
            check(port)
        finally:
            prometheus.terminate()


def is_up(port: int) -> bool:
    try:
        found = ask(port, "query", query='up{job="holdover"}')["result"]
        rules = ask(port, "rules")["groups"][0]["rules"]
    except OSError:
        return False
    return [each["value"][1] for each in found] == ["1"] and all(each["health"] == "ok" for each in rules)


def check(port: int) -> None:
    names = set(ask(port, "label/__name__/values"))
    expected = {f"{each.name}_count" if each.kind is MetricType.HISTOGRAM else each.name for each in METRICS}
    assert expected - names == NAMED | OF_PEERS
    metadata = ask(port, "metadata")
    for each in METRICS:
        if each.name not in NAMED | OF_PEERS:
            assert metadata[each.name][0]["type"] == each.kind.value
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    for query in [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]:
        text = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
        assert ask(port, "query", query=text)["resultType"] == "vector", query
    assert ask(port, "alerts")["alerts"] == []
