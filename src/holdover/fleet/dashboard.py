"""Serves the page to one operator's browser, on loopback, with the operator's right to ask the agents.

Every user of the machine reaches a port on loopback, and so does every page in a browser. So a request counts
only with the session's cookie, and the browser gets the cookie only for the token that the command prints,
once. ``Host`` must be the address that the command prints: a page elsewhere whose name leads here has another
one. A change needs a header that only the page's own script can send.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Final

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody, Parameter

from holdover.api.client import AgentError
from holdover.api.documents import GuestRegistrants, HandoverState, Problem
from holdover.api.problems import PROBLEM_TYPE, with_status
from holdover.fleet.changes import ChangeRequest, carry_out
from holdover.fleet.documents import Fleet
from holdover.fleet.picture import picture
from holdover.fleet.survey import Survey

_COOKIE: Final = "holdover-dashboard"
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_FILES: Final = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "timeline.js": "text/javascript; charset=utf-8",
}
_FRESH_SECONDS: Final = 0.5
"""An answer of the agents serves all requests within this time: several windows cost the agents no more."""

Connection = ASGIConnection[BaseRouteHandler, object, object, State]


class Session:
    """Who may see the page: the browser that shows the token, once, and from then on its cookie."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._cookie = secrets.token_urlsafe(32)
        self._is_open = False

    def open(self, token: str) -> str | None:
        """The cookie for the first one who shows the token; None for all others."""
        if self._is_open or not secrets.compare_digest(token.encode(), self.token.encode()):
            return None
        self._is_open = True
        return self._cookie

    def knows(self, cookie: str | None) -> bool:
        """Whether this is the cookie of the session."""
        return cookie is not None and secrets.compare_digest(cookie.encode(), self._cookie.encode())


class Freshest:
    """The picture of the site, asked for again when it is out of date."""

    def __init__(self, survey: Survey, clock: Callable[[], float] = time.time) -> None:
        self._survey = survey
        self._clock = clock
        self._fleet: Fleet | None = None

    async def fleet(self) -> Fleet:
        """The site now."""
        now = self._clock()
        if self._fleet is None or not 0 <= now - self._fleet.at < _FRESH_SECONDS:
            self._fleet = picture(await self._survey.ask(), now)
        return self._fleet


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the page must know of the command: whether changes are allowed."""

    allow_changes: bool
    version: str


def dashboard(survey: Survey, session: Session, settings: Settings, address: Callable[[], str]) -> Litestar:
    """The page's server, for any ASGI server. ``address`` is the HOST:PORT that the browser asks."""
    freshest = Freshest(survey)

    def guard(connection: Connection, _: BaseRouteHandler) -> None:
        if connection.headers.getall("host", []) != [address()]:
            raise HTTPException(f"the address of this page is http://{address()}/", status_code=421)
        if connection.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise HTTPException("a page elsewhere sent this request", status_code=403)
        if connection.scope["path_template"] == "/" and "token" in connection.query_params:
            return
        if not session.knows(connection.cookies.get(_COOKIE)):
            raise HTTPException(
                "this browser has no session. Open the address that holdover dashboard has printed. It works "
                "once; start the command again for another browser",
                status_code=403,
            )

    @get("/", sync_to_thread=False)
    def page(token: Annotated[str | None, Parameter(required=False)] = None) -> Response[bytes]:
        if token is None:
            return _file("page.html")
        cookie = session.open(token)
        if cookie is None:
            raise HTTPException("this token has been used. Start holdover dashboard again", status_code=403)
        headers = {"location": "/", "set-cookie": f"{_COOKIE}={cookie}; HttpOnly; SameSite=Strict; Path=/"}
        return Response(b"", status_code=303, headers=headers)

    @get("/{name:str}", sync_to_thread=False)
    def file(name: FromPath[str]) -> Response[bytes]:
        if name not in _FILES or name == "page.html":
            raise HTTPException("there is no such page", status_code=404)
        return _file(name)

    @get("/settings.json", sync_to_thread=False)
    def told() -> Settings:
        return settings

    @get("/fleet.json")
    async def fleet() -> Fleet:
        return await freshest.fleet()

    @get("/timeline/{guest:str}")
    async def timeline(guest: FromPath[str]) -> list[HandoverState]:
        return await survey.timeline(guest)

    @get("/registrants/{host:str}/{guest:str}")
    async def registrants(host: FromPath[str], guest: FromPath[str]) -> GuestRegistrants:
        return await survey.registrants(guest, host)

    @post("/change", status_code=200)
    async def change(data: JSONBody[ChangeRequest]) -> dict[str, str]:
        if not settings.allow_changes:
            raise HTTPException(
                "this page only shows. Start holdover dashboard with --allow-changes", status_code=403
            )
        return {"text": await carry_out(survey, data)}

    def refused(_request: Request[object, object, State], error: HTTPException) -> Response[Problem]:
        return _problem(error.detail, error.status_code)

    def failed(_request: Request[object, object, State], error: AgentError) -> Response[Problem]:
        return _problem(str(error), 502)

    return Litestar(
        route_handlers=[page, told, fleet, timeline, registrants, change, file],
        guards=[guard],
        exception_handlers={HTTPException: refused, AgentError: failed},
        after_request=_with_headers,
        openapi_config=None,
        logging_config=None,
    )


def _with_headers(response: Response[object]) -> Response[object]:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _problem(text: str, status: int) -> Response[Problem]:
    return Response(
        with_status(Problem(detail=text), status),
        status_code=status,
        media_type=PROBLEM_TYPE,
        headers=dict(_HEADERS),
    )


def _file(name: str) -> Response[bytes]:
    content = files("holdover.fleet").joinpath(name).read_bytes()
    return Response(content, media_type=_FILES[name])
