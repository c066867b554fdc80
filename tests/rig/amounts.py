"""How much a test does: a part of it in `make test`, all of it in `make test-long`.

`tests/conftest.py` says which of the two it is before any test is collected, so that a decorator can ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pytest

_WHOLE: Final = [False]


def set_whole(whole: bool) -> None:
    """Say whether the tests that are collected from now on do all that they can."""
    _WHOLE[0] = whole


def is_whole() -> bool:
    """Whether the tests do all that they can."""
    return _WHOLE[0]


def amount(brief: int, whole: int) -> int:
    """How many cases a test goes through: ``brief`` in `make test`, ``whole`` in `make test-long`."""
    return whole if _WHOLE[0] else brief


def some(cases: Iterable[Any], every: int) -> list[Any]:
    """Cases as the parameters of a test: each ``every``-th in `make test`, all in `make test-long`."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks)
        for number, case in enumerate(cases)
        for marks in [() if number % every == 0 else pytest.mark.long]
    ]
