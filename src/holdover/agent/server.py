"""The agent's API over HTTP; thin: every decision is made by `HostedGuest` and below."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import structlog
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.params import FromPath, JSONBody

from holdover.agent.api import GuestState, HostState, Problem, Step, StepAnswer, StepRequest
from holdover.agent.config import AgentConfig, parse_host_port
from holdover.agent.guest import HostedGuest, StepProblem
from holdover.agent.host import Host

__all__ = ["serve"]

log = structlog.get_logger()


class _NoSuchGuest(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _application(host: Host) -> Litestar:
    def find(name: str) -> HostedGuest:
        guest = host.guests.get(name)
        if guest is None:
            raise _NoSuchGuest(name)
        return guest

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
        exception_handlers={
            _NoSuchGuest: no_such_guest,
            StepProblem: step_problem,
            ValidationException: bad_request,
            Exception: unexpected,
        },
        openapi_config=None,
        logging_config=None,
    )


class _Server(uvicorn.Server):
    """Leaves signals to `serve`, which has exports to end before the process may."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(config: AgentConfig, ready: Callable[[Host], None]) -> None:
    """Run an agent until SIGINT or SIGTERM; ``ready`` is called once it can be asked.

    Raises:
        OSError: The API or an export cannot listen at its address.
    """
    api = parse_host_port(config.api.listen, "api.listen")
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    with socket.create_server((api.host, api.port), family=family) as listener:
        host = Host(config)
        settings = uvicorn.Config(
            _application(host), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
        )
        server = _Server(settings)

        def end() -> None:
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        await host.start()
        try:
            ready(host)
            await server.serve(sockets=[listener])
        finally:
            await host.close()
