"""What an initiator session tells whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass

from holdover.iscsi.errors import CommandRefused, LoginError
from holdover.iscsi.negotiation import Parameters
from holdover.scsi.command import Response

__all__ = [
    "CommandCompleted",
    "CommandFailed",
    "InitiatorEvent",
    "LoggedIn",
    "LoginFailed",
    "LogoutRequested",
    "SessionClosed",
    "TargetsReceived",
    "TaskManagementCompleted",
]


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Full feature phase has begun."""

    parameters: Parameters


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """There will be no session; the connection is of no more use."""

    error: LoginError


@dataclass(slots=True)
class CommandCompleted:
    """A command was answered with a SCSI status."""

    tag: int
    response: Response


@dataclass(frozen=True, slots=True)
class CommandFailed:
    """A command was answered with something else."""

    tag: int
    error: CommandRefused


@dataclass(frozen=True, slots=True)
class TaskManagementCompleted:
    """A task management function was answered.

    Attributes:
        response: One of `TaskManagementResponse` or a number that is none.
    """

    tag: int
    response: int


@dataclass(frozen=True, slots=True)
class TargetsReceived:
    """The whole answer to SendTargets, as pairs in their order."""

    tag: int
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LogoutRequested:
    """The target wants this session to log out within that many seconds (RFC 7143 11.9.1)."""

    seconds: int


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is over: send what is left and close the connection. Commands that have not been
    answered never will be."""

    reason: str


InitiatorEvent = (
    LoggedIn
    | LoginFailed
    | CommandCompleted
    | CommandFailed
    | TaskManagementCompleted
    | TargetsReceived
    | LogoutRequested
    | SessionClosed
)
