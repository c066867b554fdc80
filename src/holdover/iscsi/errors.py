"""What can go wrong with iSCSI; each error says what happened and what is true afterwards."""

from __future__ import annotations

from holdover.iscsi.numbers import LoginStatus, RejectReason, TaskManagementResponse
from holdover.scsi.command import Command

__all__ = [
    "CommandRefused",
    "ConnectError",
    "ConnectionLost",
    "IscsiError",
    "IscsiNameError",
    "IscsiUrlError",
    "LoginError",
    "PduError",
    "ProtocolError",
    "TaskManagementError",
    "TextError",
]


class IscsiError(Exception):
    """Anything that this package raises."""


class ProtocolError(IscsiError):
    """The peer broke RFC 7143; the connection cannot be used any more."""


class PduError(ProtocolError):
    """Bytes that are no PDU; the only error that decoding a PDU raises. What follows in the byte
    stream cannot be told apart any more."""


class TextError(ProtocolError):
    """A data segment that is no list of key=value pairs, or a value that its key does not allow."""


class IscsiNameError(IscsiError, ValueError):
    """A text that is no iSCSI name."""


class IscsiUrlError(IscsiError, ValueError):
    """A text that is no iscsi:// URL; the message names the part."""


class LoginError(IscsiError):
    """The target refused the login, or the two could not agree. No session exists.

    Attributes:
        status: Class and detail as the target gave them, or None where this side gave up.
        code: The same as a number, class << 8 | detail, also where it has no name; None as above.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = next((status for status in LoginStatus if status == code), None)


class ConnectError(IscsiError):
    """There is no connection to the portal, or no answer to the login in time. No session exists."""


class ConnectionLost(IscsiError):
    """The connection ended before the answer came.

    Attributes:
        lun: The logical unit number the command was for, or None where it concerns no command.
        command: The command whose answer never came. Unless `sent` is False, whether the logical
            unit carried it out is unknown: ask the logical unit.
        sent: Whether any byte of the command was given to the connection.
    """

    def __init__(
        self, reason: str, *, lun: int | None = None, command: Command | None = None, sent: bool = True
    ) -> None:
        what = "" if command is None else f"{describe_command(command)} for LUN {lun}: "
        state = "" if command is None else (" (no answer came)" if sent else " (it was never sent)")
        super().__init__(f"{what}{reason}{state}")
        self.reason = reason
        self.lun = lun
        self.command = command
        self.sent = sent


class CommandRefused(IscsiError):
    """The target answered a command with something other than a SCSI status; the session goes on.

    Attributes:
        reject: The reason of the Reject PDU, or None where it was a failed SCSI Response.
    """

    def __init__(self, message: str, reject: RejectReason | None = None) -> None:
        super().__init__(message)
        self.reject = reject


class TaskManagementError(IscsiError):
    """The target did not carry out a task management function; the session goes on."""

    def __init__(self, message: str, response: TaskManagementResponse | None) -> None:
        super().__init__(message)
        self.response = response


def describe_command(command: Command) -> str:
    """A command in a few words for messages: its operation code and CDB."""
    return f"command {command.opcode & 0xFF:02X}h (CDB {command.cdb.hex(' ')})"
