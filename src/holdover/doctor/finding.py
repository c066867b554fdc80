"""What one check has found."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """How good what was found is."""

    OK = "ok"
    WARNING = "warning"
    """It works now, and somebody should look at it."""
    WRONG = "wrong"
    """Something does not work."""
    UNKNOWN = "unknown"
    """It could not be looked at; the text says why."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: its subject ("certificates"), what was found, and what to do (``todo``, may be empty)."""

    check: str
    verdict: Verdict
    text: str
    todo: str = ""


def ok(check: str, text: str) -> Finding:
    """A check that has passed."""
    return Finding(check=check, verdict=Verdict.OK, text=text)


def wrong(check: str, text: str, todo: str) -> Finding:
    """A check that has found something that does not work."""
    return Finding(check=check, verdict=Verdict.WRONG, text=text, todo=todo)


def warning(check: str, text: str, todo: str) -> Finding:
    """A check that has found something that somebody should look at."""
    return Finding(check=check, verdict=Verdict.WARNING, text=text, todo=todo)


def unknown(check: str, text: str, todo: str) -> Finding:
    """A check that could not be made."""
    return Finding(check=check, verdict=Verdict.UNKNOWN, text=text, todo=todo)
