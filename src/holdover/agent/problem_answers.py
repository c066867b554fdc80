"""The answers of the API where a request was not done."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from holdover.admission.token_buckets import TokenBuckets
from holdover.agent.handover.answers import HandoverProblem
from holdover.agent.host import Host
from holdover.agent.migration.migrations import MigrationProblem
from holdover.agent.placement.placement import PlacementProblem
from holdover.api.documents import Problem
from holdover.api.problems import PROBLEM_TYPE, with_status
from holdover.pki.tls import certified_name

log = structlog.get_logger()

_LISTED = 20
"""How many names an error lists at most: a host may have thousands of guests."""

_LINES = 64
_LINE_SECONDS = 10.0
"""The lines of the log that one name may cause: so many at once, and then one in so many seconds."""

_Request = Request[object, object, State]
_Answer = Response[Problem]


class NotThere(Exception):
    """What the request asks for does not exist; the text says what does."""

    def __init__(self, text: str, guest: str = "") -> None:
        super().__init__(text)
        self.guest = guest


class Forbidden(Exception):
    """The caller may not ask for this; the error says what to add to which setting."""


def no_such_guest(host: Host, name: str) -> NotThere:
    """The error where no guest has that name; it lists those that the host has."""
    known = sorted(host.guests)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    there_are = f"the guests there are {', '.join(known[:_LISTED])}{more}" if known else "no guest is there"
    why = host.handovers.left_out(name) or there_are
    return NotThere(f"there is no guest {name!r} on {host.config.name}; {why}", name)


def answer(problem: Problem, status: int) -> _Answer:
    """The answer with a problem and an HTTP status."""
    return Response(with_status(problem, status), status_code=status, media_type=PROBLEM_TYPE)


def exception_handlers(host: Host) -> ExceptionHandlersMap:
    """What the API answers for each kind of exception."""
    here = host.config.name

    def not_there(_request: _Request, error: NotThere) -> _Answer:
        return answer(Problem(detail=str(error), host=here, guest=error.guest), 404)

    def not_done(_request: _Request, error: HandoverProblem | MigrationProblem | PlacementProblem) -> _Answer:
        host.measurements.refused["handover" if isinstance(error, HandoverProblem) else "migration"] += 1
        return answer(error.problem, 409)

    def bad_request(_request: _Request, error: ValidationException) -> _Answer:
        details = f": {error.extra}" if error.extra else ""
        return answer(Problem(detail=f"{error.detail}{details}", host=here), 400)

    def unexpected(request: _Request, error: Exception) -> _Answer:
        if isinstance(error, HTTPException):
            return answer(Problem(detail=error.detail, host=here), error.status_code)
        log.error("A request to the API failed unexpectedly.", path=request.url.path, exc_info=error)
        return answer(
            Problem(detail=f"{type(error).__name__}: {error} (see this agent's log)", host=here), 500
        )

    return {
        Forbidden: _forbidden(host),
        NotThere: not_there,
        HandoverProblem: not_done,
        MigrationProblem: not_done,
        PlacementProblem: not_done,
        ValidationException: bad_request,
        Exception: unexpected,
    }


def _forbidden(host: Host) -> Callable[[_Request, Forbidden], _Answer]:
    lines = TokenBuckets(_LINES, _LINE_SECONDS)

    def forbidden(request: _Request, error: Forbidden) -> _Answer:
        name = certified_name(request.scope)
        host.measurements.refused["request"] += 1
        if not lines.take(name, time.monotonic()):
            log.warning("A request to the API was refused.", peer=name, path=request.url.path)
        return answer(Problem(detail=str(error), host=host.config.name), 403)

    return forbidden
