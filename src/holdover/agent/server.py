"""The agent's API over HTTP; thin: every decision is made by `HostedGuest` and below."""

from __future__ import annotations

import time

import structlog
from litestar import Litestar, Request, Response, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody

from holdover.agent.access import refusal
from holdover.agent.api import GuestState, HostState, Problem, Step, StepAnswer, StepRequest
from holdover.agent.guest import HostedGuest, StepProblem
from holdover.agent.host import Host
from holdover.agent.tls import peer_name

__all__ = ["application"]

log = structlog.get_logger()


class _NoSuchGuest(Exception):
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

    def forbidden(request: Request[object, object, State], error: _Forbidden) -> Response[Problem]:
        log.warning("refused", peer=peer_name(request), path=request.url.path)
        return Response(Problem(error=str(error), host=host.config.name), status_code=403)

    @get("/guests", sync_to_thread=False)
    def guests() -> HostState:
        return host.state()

    @get("/guests/{name:str}", sync_to_thread=False)
    def guest_state(name: FromPath[str]) -> GuestState:
        return find(name).state()

    @post("/guests/{name:str}/handover/{step:str}", status_code=200)
    async def handover(name: FromPath[str], step: FromPath[Step], data: JSONBody[StepRequest]) -> StepAnswer:
        started = time.perf_counter()
        devices = await find(name).step(step, data.handover, data.devices)
        return StepAnswer(devices=devices, milliseconds=(time.perf_counter() - started) * 1000)

    def no_such_guest(_request: Request[object, object, State], error: _NoSuchGuest) -> Response[Problem]:
        known = ", ".join(host.guests) or "none"
        text = f"{host.config.name} has no guest {error.name!r}; it has: {known}"
        return Response(Problem(error=text, host=host.config.name, guest=error.name), status_code=404)

    def step_problem(request: Request[object, object, State], error: StepProblem) -> Response[Problem]:
        name = str(request.path_params.get("name", ""))
        problem = Problem(
            error=str(error), host=host.config.name, guest=name, step=error.step.value, lun=error.lun
        )
        return Response(problem, status_code=409)

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
        route_handlers=[guests, guest_state, handover],
        guards=[guard],
        exception_handlers={
            _Forbidden: forbidden,
            _NoSuchGuest: no_such_guest,
            StepProblem: step_problem,
            ValidationException: bad_request,
            Exception: unexpected,
        },
        openapi_config=None,
        logging_config=None,
    )
