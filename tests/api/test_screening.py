"""What a request must be like before anybody looks at what it asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.api.screening import LOCAL_HOST, Screen, objection

NAMES = ("host-a", "host-a.example", "*.wild.example", "10.0.0.1", "2001:db8::1")
JSON = (b"content-type", b"application/json")


def status(method: str, *headers: tuple[bytes, bytes], names: tuple[str, ...] | None = NAMES) -> int:
    found = objection(method, headers, names)
    return 200 if found is None else found.status


@pytest.mark.parametrize(
    ("host", "names", "expected"),
    [
        ("host-a", NAMES, 200),
        ("host-a:7411", NAMES, 200),
        ("HOST-A.Example.:1", NAMES, 200),
        ("x.wild.example", NAMES, 200),
        ("10.0.0.1:7411", NAMES, 200),
        ("[2001:db8:0::1]:7411", NAMES, 200),
        ("wild.example", NAMES, 421),
        ("a.b.wild.example", NAMES, 421),
        ("evil.example", NAMES, 421),
        ("10.0.0.2", NAMES, 421),
        ("localhost", NAMES, 421),
        ("", NAMES, 421),
        (LOCAL_HOST, None, 200),
        ("host-a", None, 421),
        ("127.0.0.1", None, 421),
    ],
)
def test_host_is_a_name_of_this_agent(host: str, names: tuple[str, ...] | None, expected: int) -> None:
    assert status("GET", (b"host", host.encode()), names=names) == expected


def test_there_is_one_host() -> None:
    assert status("GET") == 400
    assert status("GET", (b"host", b"host-a"), (b"host", b"host-a")) == 400


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"origin", b"https://evil.example", 403),
        (b"origin", b"null", 403),
        (b"origin", b"https://host-a", 403),
        (b"sec-fetch-site", b"cross-site", 403),
        (b"sec-fetch-site", b"same-site", 403),
        (b"sec-fetch-site", b"same-origin", 403),
        (b"sec-fetch-site", b"none", 200),
    ],
)
def test_no_page_may_ask(name: bytes, value: bytes, expected: int) -> None:
    host = (b"host", b"host-a")
    assert status("GET", host, (name, value)) == expected
    assert status("POST", host, JSON, (name, value)) == expected


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("POST", (JSON,), 200),
        ("POST", ((b"content-type", b"Application/JSON; charset=utf-8"),), 200),
        ("POST", (), 415),
        ("POST", ((b"content-type", b"text/plain"),), 415),
        ("POST", ((b"content-type", b"application/x-www-form-urlencoded"),), 415),
        ("POST", ((b"content-type", b"application/jsonp"),), 415),
        ("POST", (JSON, JSON), 415),
        ("PUT", (), 415),
        ("GET", (), 200),
        ("GET", ((b"content-length", b"0"),), 200),
        ("GET", ((b"content-length", b"2"),), 415),
        ("DELETE", ((b"content-length", b"2"), JSON), 200),
    ],
)
def test_a_body_is_json(method: str, headers: tuple[tuple[bytes, bytes], ...], expected: int) -> None:
    assert status(method, (b"host", b"host-a"), *headers) == expected


@given(
    st.lists(st.tuples(st.sampled_from([b"host", b"origin", b"content-type", b"x"]), st.binary(max_size=40)))
)
def test_whatever_comes_is_judged(headers: list[tuple[bytes, bytes]]) -> None:
    found = objection("POST", headers, NAMES)
    if found is None:
        assert [value.strip().lower() for name, value in headers if name == b"origin"] == []
        assert len([value for name, value in headers if name == b"content-type"]) == 1
    else:
        assert found.status in (400, 403, 415, 421)
        assert found.why


def answers(scope: dict[str, Any], refused: str | None = None) -> list[str]:
    """The types of the messages that answer a request; `app` where it came through."""
    told: list[str] = []

    async def app(*_: object) -> None:
        told.append("app")

    async def send(message: Any) -> None:
        told.append(message["type"])

    async def receive() -> Any:
        raise AssertionError

    screen = Screen(app, "host-a", lambda _: NAMES, lambda _: refused)
    asyncio.run(screen(scope, receive, send))  # type: ignore[arg-type]
    return told


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        ("http", ["http.response.start", "http.response.body"]),
        ("websocket", ["websocket.close"]),
    ],
)
def test_websockets_are_screened_as_requests_are(kind: str, refusal: list[str]) -> None:
    """Every page may open a WebSocket: CORS does not apply to them."""
    scope = {"type": kind, "path": "/", "headers": [(b"host", b"host-a")]}
    if kind == "http":
        scope["method"] = "GET"
    page = {**scope, "headers": [(b"host", b"host-a"), (b"origin", b"https://evil.example")]}
    assert answers(scope) == ["app"]
    assert answers(page) == refusal
    assert answers(scope, "its certificate names nobody whom we know") == refusal
