"""Who may ask what."""

from __future__ import annotations

import pytest

from holdover.agent.access import refusal
from holdover.agent.config import AgentConfig, ApiConfig, PeerConfig

CONFIG = AgentConfig(
    name="host-a",
    initiator="iqn.2026-11.org.example:host-a",
    api=ApiConfig(listen="127.0.0.1:0", certificate="a", key="a", ca="a", operators=("admin-1", "host-c")),
    peer=(PeerConfig(name="host-b", api="host-b:7411"), PeerConfig(name="host-c", api="host-c:7411")),
)
ROUTES = [
    ("GET", "/guests"),
    ("GET", "/guests/{name}"),
    ("POST", "/guests/{name}/handover/{step}"),
    ("POST", "/guests"),
    ("GET", "/journal"),
    ("POST", "/peer/handover"),
    ("GET", "/peer/handover"),
]
READ = ROUTES[:2]
PEER = ROUTES[-2:]


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        (None, ROUTES),
        ("admin-1", ROUTES[:-2]),
        ("host-b", READ + PEER),
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
