"""Who may ask what."""

from __future__ import annotations

import pytest

from holdover.api.access import refusal
from holdover.config.agent_file import AgentConfig, ApiConfig, PeerConfig

CONFIG = AgentConfig(
    name="host-a",
    initiator="iqn.2026-11.org.example:host-a",
    api=ApiConfig(
        listen="127.0.0.1:0",
        certificate="a",
        key="a",
        ca="a",
        operators=("admin-1", "host-c"),
        readers=("prometheus",),
    ),
    peer=(PeerConfig(name="host-b", api="host-b:7411"), PeerConfig(name="host-c", api="host-c:7411")),
)
ROUTES = [
    ("GET", "/guests"),
    ("GET", "/guests/{name}"),
    ("GET", "/guests/{name}/handover"),
    ("GET", "/metrics"),
    ("GET", "/readyz"),
    ("POST", "/guests/{name}/handover/{step}"),
    ("GET", "/guests/{name}/secret"),
    ("POST", "/guests"),
    ("GET", "/journal"),
    ("POST", "/peer/handover"),
    ("GET", "/peer/handover"),
]
READ = ROUTES[:2]
READING = ROUTES[:5]
PEER = ROUTES[-2:]


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        (None, ROUTES[:-2]),
        ("admin-1", ROUTES[:-2]),
        ("host-b", READ + PEER),
        ("prometheus", READING),
        ("host-c", ROUTES),
        ("HOST-B", []),
        ("stranger", []),
        ("", []),
    ],
)
def test_who_may_ask_what(name: str | None, allowed: list[tuple[str, str]]) -> None:
    assert [route for route in ROUTES if refusal(CONFIG, name, *route) is None] == allowed


def test_a_refusal_says_what_to_add_where() -> None:
    operator = refusal(CONFIG, "admin-2", "GET", "/guests") or ""
    assert "no operator of host-a" in operator
    assert 'operators = ["admin-2"] under [api] in the file of the agent on host-a' in operator
    peer = refusal(CONFIG, "host-d", "POST", "/peer/handover") or ""
    assert "no peer of host-a" in peer
    assert '[[peer]] name = "host-d"' in peer
    assert "names nobody" in (refusal(CONFIG, "", "GET", "/guests") or "")
