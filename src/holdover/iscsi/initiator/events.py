"""The events that an initiator session reports to its owner."""

from __future__ import annotations

import msgspec

from holdover.iscsi.errors import CommandRefused, LoginError
from holdover.iscsi.negotiation import Parameters
from holdover.scsi.command import Response


class LoggedIn(msgspec.Struct, frozen=True):
    """Full feature phase has begun."""

    parameters: Parameters


class LoginFailed(msgspec.Struct, frozen=True):
    """The login failed: there will be no session, and the connection must be closed."""

    error: LoginError


class CommandCompleted(msgspec.Struct, frozen=True, gc=False):
    """A command was answered with a SCSI status."""

    tag: int
    response: Response


class CommandFailed(msgspec.Struct, frozen=True):
    """A command was answered with something other than a SCSI status."""

    tag: int
    error: CommandRefused


class TaskManagementCompleted(msgspec.Struct, frozen=True):
    """A task management function was answered.

    Attributes:
        response: A `TaskManagementResponse`, or another number.
    """

    tag: int
    response: int


class TargetsReceived(msgspec.Struct, frozen=True):
    """The whole answer to SendTargets, as pairs in their order."""

    tag: int
    pairs: tuple[tuple[str, str], ...]


class LogoutRequested(msgspec.Struct, frozen=True):
    """The target asks this session to log out within a number of seconds (RFC 7143 11.9.1)."""

    seconds: int


class SessionClosed(msgspec.Struct, frozen=True):
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
