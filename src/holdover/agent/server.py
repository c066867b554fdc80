"""The agent's API over HTTP; thin: every decision is made by `Handovers` and below."""

from __future__ import annotations

import time
from collections.abc import Awaitable

import msgspec
import structlog
from litestar import Litestar, Request, Response, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody

from holdover.agent.access import refusal
from holdover.agent.api import (
    GuestState,
    HandoverRequest,
    HandoverState,
    HostState,
    PeerMessage,
    PeerState,
    PrepareRequest,
    Problem,
)
from holdover.agent.guest import HostedGuest
from holdover.agent.handovers import HandoverProblem
from holdover.agent.host import Host
from holdover.agent.pace import request_pace
from holdover.agent.tls import peer_name
from holdover.handover.protocol import Answer
from holdover.handover.states import Event

__all__ = ["application"]

log = structlog.get_logger()

_LARGEST_REQUEST = 4 << 20
"""Bytes: a message of a guest with some thousands of LUNs."""


class _NoSuchGuest(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _NoHandover(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Forbidden(Exception):
    """Whoever asks may not: says what to add where."""


def application(host: Host) -> Litestar:
    """The API of ``host``, for any ASGI server."""

    def find(name: str) -> HostedGuest:
        guest = host.guests.get(name)
        if guest is None:
            raise _NoSuchGuest(name)
        return guest

    def guard(
        connection: ASGIConnection[BaseRouteHandler, object, object, State], _: BaseRouteHandler
    ) -> None:
        scope = connection.scope
        why = refusal(host.config, peer_name(connection), str(scope.get("method")), scope["path_template"])
        if why is not None:
            raise _Forbidden(why)

    async def in_turn(_request: Request[object, object, State]) -> None:
        await request_pace().wait()

    def forbidden(request: Request[object, object, State], error: _Forbidden) -> Response[Problem]:
        log.warning("refused", peer=peer_name(request), path=request.url.path)
        return Response(Problem(error=str(error), host=host.config.name), status_code=403)

    @get("/guests", sync_to_thread=False)
    def guests() -> HostState:
        return host.state()

    @get("/guests/{name:str}", sync_to_thread=False)
    def guest_state(name: FromPath[str]) -> GuestState:
        return host.guest_state(find(name))

    @get("/guests/{name:str}/handover", sync_to_thread=False)
    def newest(name: FromPath[str]) -> HandoverState:
        state = host.handovers.state(find(name).name)
        if state is None:
            raise _NoHandover(name)
        return state

    async def timed(what: Awaitable[HandoverState]) -> HandoverState:
        started = time.perf_counter()
        state = await what
        return msgspec.structs.replace(state, milliseconds=(time.perf_counter() - started) * 1000)

    @post("/guests/{name:str}/handover/prepare", status_code=200)
    async def prepare(name: FromPath[str], data: JSONBody[PrepareRequest]) -> HandoverState:
        return await timed(host.handovers.prepare(find(name).name, data.handover, data.to, data.stale))

    @post("/guests/{name:str}/handover/commit", status_code=200)
    async def commit(name: FromPath[str], data: JSONBody[HandoverRequest]) -> HandoverState:
        return await timed(host.handovers.ask(find(name).name, data.handover, Event.ASKED_COMMIT))

    @post("/guests/{name:str}/handover/rollback", status_code=200)
    async def roll_back(name: FromPath[str], data: JSONBody[HandoverRequest]) -> HandoverState:
        event = Event.ASKED_ALONE if data.alone else Event.ASKED_ROLL_BACK
        return await timed(host.handovers.ask(find(name).name, data.handover, event))

    @post("/guests/{name:str}/handover/finish", status_code=200)
    async def finish(name: FromPath[str], data: JSONBody[HandoverRequest]) -> HandoverState:
        return await timed(host.handovers.ask(find(name).name, data.handover, Event.ASKED_FINISH))

    @post("/guests/{name:str}/handover/take", status_code=200)
    async def take(name: FromPath[str], data: JSONBody[HandoverRequest]) -> HandoverState:
        return await timed(host.handovers.take(find(name).name, data.handover))

    @post("/peer/handover", status_code=200)
    async def hear(request: Request[object, object, State], data: JSONBody[PeerMessage]) -> Answer:
        return await host.handovers.hear(data, peer_name(request))

    @get("/peer/handover/{handover:str}", sync_to_thread=False)
    def peer_state(handover: FromPath[str]) -> PeerState:
        return host.handovers.peer_state(handover)

    def no_such_guest(_request: Request[object, object, State], error: _NoSuchGuest) -> Response[Problem]:
        known = ", ".join(host.guests) or "none"
        text = f"{host.config.name} has no guest {error.name!r}; it has: {known}"
        return Response(Problem(error=text, host=host.config.name, guest=error.name), status_code=404)

    def no_handover(_request: Request[object, object, State], error: _NoHandover) -> Response[Problem]:
        text = f"guest {error.name} has not been handed over from or to {host.config.name}"
        return Response(Problem(error=text, host=host.config.name, guest=error.name), status_code=404)

    def not_done(_request: Request[object, object, State], error: HandoverProblem) -> Response[Problem]:
        return Response(error.problem, status_code=409)

    def bad_request(
        _request: Request[object, object, State], error: ValidationException
    ) -> Response[Problem]:
        details = f": {error.extra}" if error.extra else ""
        return Response(Problem(error=f"{error.detail}{details}", host=host.config.name), status_code=400)

    def unexpected(request: Request[object, object, State], error: Exception) -> Response[Problem]:
        if isinstance(error, HTTPException):
            return Response(Problem(error=error.detail, host=host.config.name), status_code=error.status_code)
        log.error("request failed", path=request.url.path, exc_info=error)
        problem = Problem(
            error=f"{type(error).__name__}: {error} (see this agent's log)", host=host.config.name
        )
        return Response(problem, status_code=500)

    return Litestar(
        route_handlers=[
            guests,
            guest_state,
            newest,
            prepare,
            commit,
            roll_back,
            finish,
            take,
            hear,
            peer_state,
        ],
        guards=[guard],
        before_request=in_turn,
        exception_handlers={
            _Forbidden: forbidden,
            _NoSuchGuest: no_such_guest,
            _NoHandover: no_handover,
            HandoverProblem: not_done,
            ValidationException: bad_request,
            Exception: unexpected,
        },
        request_max_body_size=_LARGEST_REQUEST,
        openapi_config=None,
        logging_config=None,
    )
