"""The errors of iSCSI; each error says what happened, and what is true afterwards."""

from __future__ import annotations

from holdover.iscsi.numbers import LoginStatus, RejectReason, TaskManagementResponse
from holdover.scsi.command import Command


class IscsiError(Exception):
    """The base of all errors of this package."""


class ProtocolError(IscsiError):
    """The peer broke RFC 7143; the connection cannot be used any more."""


class PduError(ProtocolError):
    """Bytes are not a valid PDU. Decoding a PDU raises only this error.

    After it, the next PDU in the byte stream cannot be found any more.
    """


class TextError(ProtocolError):
    """A data segment is not a list of key=value pairs, or a key does not allow its value."""


class IscsiNameError(IscsiError, ValueError):
    """A text is not an iSCSI name."""


class IscsiUrlError(IscsiError, ValueError):
    """A text is not an iscsi:// URL; the message names the wrong part."""


class LoginError(IscsiError):
    """The target refused the login, or the two sides could not agree. No session exists.

    Attributes:
        status: Class and detail that the target sent; None when this side gave up.
        code: The same as a number, class << 8 | detail, also for a status without a name; None as above.
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
        lun: The logical unit number of the command, or None when no command was on its way.
        command: The command whose answer never came. Unless `sent` is False, it is not known whether the
            logical unit carried the command out: ask the logical unit.
        sent: Whether any byte of the command was handed to the connection.
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
    """The target answered a command with something other than a SCSI status; the session continues.

    Attributes:
        reject: The reason of the Reject PDU, or None when the answer was a failed SCSI Response.
    """

    def __init__(self, message: str, reject: RejectReason | None = None) -> None:
        super().__init__(message)
        self.reject = reject


class TaskManagementError(IscsiError):
    """The target did not carry out a task management function; the session continues."""

    def __init__(self, message: str, response: TaskManagementResponse | None) -> None:
        super().__init__(message)
        self.response = response


def describe_command(command: Command) -> str:
    """A command in a few words for messages: its operation code and CDB."""
    return f"command {command.opcode & 0xFF:02X}h (CDB {command.cdb.hex(' ')})"
