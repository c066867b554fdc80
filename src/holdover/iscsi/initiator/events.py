"""The events that an initiator session reports to its owner."""

from __future__ import annotations

from dataclasses import dataclass

from holdover.iscsi.errors import CommandRefused, LoginError
from holdover.iscsi.negotiation import Parameters
from holdover.scsi.command import Response


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Full feature phase has begun."""

    parameters: Parameters


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """The login failed: there will be no session, and the connection must be closed."""

    error: LoginError


@dataclass(slots=True)
class CommandCompleted:
    """A command was answered with a SCSI status."""

    tag: int
    response: Response


@dataclass(frozen=True, slots=True)
class CommandFailed:
    """A command was answered with something other than a SCSI status."""

    tag: int
    error: CommandRefused


@dataclass(frozen=True, slots=True)
class TaskManagementCompleted:
    """A task management function was answered.

    Attributes:
        response: A `TaskManagementResponse`, or another number.
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
    """The target asks this session to log out within a number of seconds (RFC 7143 11.9.1)."""

    seconds: int


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is over: send the remaining bytes, and close the connection.

    Commands without an answer never get one.
    """

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
