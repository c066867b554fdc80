"""How a problem is written into an answer (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from holdover.api.documents import Problem

PROBLEM_TYPE: Final = "application/problem+json"


def with_status(problem: Problem, status: int) -> Problem:
    """The problem as an answer with that HTTP status says it."""
    return msgspec.structs.replace(problem, status=status, title=HTTPStatus(status).phrase)


def problem_body(problem: Problem, status: int) -> bytes:
    """The body of an answer with that HTTP status."""
    return msgspec.json.encode(with_status(problem, status))
