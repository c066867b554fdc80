"""What every request must satisfy, on every route, before the agent looks at what it asks for.

A web page can make the browser send requests to any address that the browser reaches, with the user's
certificate. The page cannot choose ``Origin``, ``Sec-Fetch-Site`` or ``Host``. Nor can it send the type
``application/json`` without the server's permission (CORS).
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog
from litestar.enums import ScopeType
from litestar.status_codes import HTTP_403_FORBIDDEN
from litestar.types import ASGIApp, Receive, Scope, Send

from holdover.admission.token_buckets import TokenBuckets
from holdover.api.documents import Problem
from holdover.api.problems import PROBLEM_TYPE, problem_body

log = structlog.get_logger()

LOCAL_HOST = "localhost"
"""The only valid ``Host`` on a Unix socket."""

_JSON = "application/json"
_HAS_BODY = frozenset({"POST", "PUT", "PATCH"})
_TYPED_BY_THE_USER = "none"  # W3C Fetch Metadata 2.3: the user made this request, not a page

_POLICY_VIOLATION = 1008  # RFC 6455 7.4.1

_LINES = 64
_LINE_SECONDS = 10.0
"""The lines of the log for each status: so many at once, and then one in so many seconds."""

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a request is refused: the status (RFC 9110 15.5) and a sentence."""

    status: int
    why: str


def objection(method: str, headers: Headers, names: Sequence[str] | None) -> Objection | None:
    """What is wrong with a request; None if nothing is.

    Args:
        method: The HTTP method.
        headers: The headers as ASGI gives them, names in lower case.
        names: Names and addresses in the agent's certificate; None on a Unix socket.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1").strip())
    return _host(found, names) or _page(found) or _body(method, found)


def _host(headers: dict[str, list[str]], names: Sequence[str] | None) -> Objection | None:
    given = headers.get("host", [])
    if len(given) != 1:
        return Objection(400, f"the request has {len(given)} Host headers and must have one (RFC 9112 3.2)")
    wanted = (LOCAL_HOST,) if names is None else names
    host = without_port(given[0])
    if any(_is_named(host, name) for name in wanted):
        return None
    where = "at a Unix socket Host must be" if names is None else "the certificate of this agent names"
    return Objection(421, f"Host is {given[0]!r}, and {where} {', '.join(wanted)}")


def _page(headers: dict[str, list[str]]) -> Objection | None:
    for origin in headers.get("origin", []):
        return Objection(403, f"a page of {origin!r} sent this request, and no page may ask an agent")
    for site in headers.get("sec-fetch-site", []):
        if site != _TYPED_BY_THE_USER:
            return Objection(403, "a page in a browser sent this request, and no page may ask an agent")
    return None


def _body(method: str, headers: dict[str, list[str]]) -> Objection | None:
    if method not in _HAS_BODY and headers.get("content-length", ["0"]) == ["0"]:
        return None
    given = headers.get("content-type", [])
    if len(given) == 1 and given[0].partition(";")[0].strip().lower() == _JSON:
        return None
    said = ", ".join(given) or "not given"
    return Objection(415, f"Content-Type is {said}, and a body must be JSON: Content-Type: {_JSON}")


def without_port(host: str) -> str:
    """The ``HOST`` of ``HOST:PORT``; an IPv6 address comes without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_named(host: str, name: str) -> bool:
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(name)
    except ValueError:
        pass
    host, name = host.lower().removesuffix("."), name.lower().removesuffix(".")
    # RFC 9525 6.3: a wildcard is the whole leftmost label, and it stands for one label
    return host == name or (name.startswith("*.") and host.partition(".")[2] == name[2:] != "")


class Screen:
    """An ASGI application that answers requests with an objection, and passes the others to ``app``."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        names_at: Callable[[Scope], Sequence[str] | None],
        refusal_of: Callable[[Scope], str | None] = lambda _: None,
    ) -> None:
        """``host`` is this agent's name. ``names_at`` gives the valid names for the socket of a request.

        ``refusal_of`` says why a client that may use no route at all is refused; None for other clients. Such
        a client needs one connection for each answer, and connections come at a limited rate.
        """
        self._app = app
        self._host = host
        self._names_at = names_at
        self._refusal_of = refusal_of
        self._lines = TokenBuckets(_LINES, _LINE_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in (ScopeType.HTTP, ScopeType.WEBSOCKET):
            # a WebSocket begins as a GET, and browsers let every page open one
            method = str(scope.get("method", "GET"))
            found = objection(method, scope["headers"], self._names_at(scope))
            if found is None and (why := self._refusal_of(scope)) is not None:
                found = Objection(HTTP_403_FORBIDDEN, why)
            if found is not None:
                if not self._lines.take(found.status, time.monotonic()):
                    log.warning("A request to the API was refused.", path=scope["path"], reason=found.why)
                if scope["type"] == ScopeType.WEBSOCKET:
                    # the ASGI server answers 403, because the connection was not accepted
                    await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
                else:
                    await self._refuse(found, send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, found: Objection, send: Send) -> None:
        body = problem_body(Problem(detail=found.why, host=self._host), found.status)
        headers = [
            (b"content-type", PROBLEM_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": found.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
