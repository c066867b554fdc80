"""What the user of a migration is told: each step on the way, the result, and the exit status.

docs/reference/exit-status.md shows the exit statuses of this module as a table.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from holdover.api.documents import LunState, Problem


class ExitStatus(IntEnum):
    """The exit status of a command that asks agents for something."""

    DONE = 0
    """The request was done."""
    NOT_DONE = 1
    """The request was not done; it is known where the guest's reservations are."""
    WRONG = 2
    """The request itself is wrong; no agent was asked for anything."""
    IN_DOUBT = 3
    """It is not known where the guest's reservations are."""


def is_in_doubt(problem: Problem | None, *, may_have_moved: bool) -> bool:
    """Whether the place of a guest's reservations is unknown, after a request that was not done.

    Args:
        problem: The agent's answer; None if the agent did not answer.
        may_have_moved: Whether this handover has asked for anything that moves reservations.
    """
    if problem is not None and problem.state:
        return problem.in_doubt
    return may_have_moved


def exit_status(*, in_doubt: bool) -> ExitStatus:
    """The exit status of a command that did not do what it was asked to do."""
    return ExitStatus.IN_DOUBT if in_doubt else ExitStatus.NOT_DONE


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One action that began, goes on or ended.

    Attributes:
        phase: "check", "prepare", "migrate", "commit", "finish" or "rollback".
        action: The name of the action: "prepare", "commit", "copy memory until the guest has stopped", ...
        host: The host's name; empty for both hosts.
        state: "begins", "goes on", "done" or "failed".
        at: Seconds since the start of the command.
        milliseconds: The duration; 0 until the action is done.
        detail: A text for people.
    """

    phase: str
    action: str
    host: str
    state: str
    at: float
    milliseconds: float = 0.0
    detail: str = ""


class MigrationResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a handover that was done.

    Attributes:
        devices: What was moved, LUN by LUN.
        milliseconds: The duration of the commit, from the request to its answer. The guest stood still.
        standstill_ms: The time from STOP on the source to RESUME on the destination; None without QMP.
        warnings: What somebody must look at, although the guest is in the right place.
    """

    guest: str
    handover_id: str
    source: str
    destination: str
    devices: tuple[LunState, ...]
    milliseconds: float
    standstill_ms: float | None = None
    warnings: tuple[str, ...] = ()


class MigrateFailed(Exception):
    """The guest was not moved.

    Attributes:
        reason: What failed, where, on which LUN, and why.
        now: What is true now, and what to do next.
        in_doubt: Whether it is unknown where the guest's reservations are.
    """

    def __init__(self, reason: str, now: str, *, in_doubt: bool = False) -> None:
        super().__init__(f"{reason}\n{now}")
        self.reason = reason
        self.now = now
        self.in_doubt = in_doubt
