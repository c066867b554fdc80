"""The manifest for Kubernetes holds together, and has what the agent's unit has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.systemd.units import read_unit

ROOT = Path(__file__).parents[2]
MANIFEST: dict[str, Any] = yaml.safe_load((ROOT / "kubernetes" / "daemonset.yaml").read_text())
POD: dict[str, Any] = MANIFEST["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
UNIT = read_unit("holdover-agent.service")


def test_the_selector_selects_the_pods() -> None:
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("apps/v1", "DaemonSet")
    assert MANIFEST["spec"]["selector"]["matchLabels"] == MANIFEST["spec"]["template"]["metadata"]["labels"]


def test_each_mount_has_a_volume_and_each_volume_a_mount() -> None:
    assert {each["name"] for each in CONTAINER["volumeMounts"]} == {each["name"] for each in POD["volumes"]}


def test_it_starts_what_the_unit_starts() -> None:
    assert CONTAINER["args"] == UNIT.arguments
    containerfile = (ROOT / "kubernetes" / "Containerfile").read_text()
    assert 'ENTRYPOINT ["/usr/bin/holdover"]' in containerfile
    assert CONTAINER["args"][0] in containerfile


def test_the_agents_folders_are_those_of_the_node() -> None:
    places = {each["mountPath"]: each["name"] for each in CONTAINER["volumeMounts"]}
    kept = {each["name"]: each["hostPath"]["path"] for each in POD["volumes"]}
    assert all(kept[places[each]] == each for each in places)
    assert {"/etc/holdover", "/var/lib/holdover", "/run/holdover", "/dev"} <= set(places)


def test_it_is_never_restarted_by_itself_and_sees_the_nodes_processes() -> None:
    assert MANIFEST["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert POD["hostPID"]
    assert CONTAINER["securityContext"]["privileged"]


def test_it_may_use_as_much_memory_as_the_unit() -> None:
    assert CONTAINER["resources"]["limits"]["memory"] == UNIT.one("Service", "MemoryMax") + "i"


def test_the_page_names_the_socket_that_the_manifest_mounts() -> None:
    page = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text()
    (socket,) = re.findall(r'^socket = "(.*)"$', page, re.MULTILINE)
    assert str(Path(socket).parent) in {each["mountPath"] for each in CONTAINER["volumeMounts"]}
