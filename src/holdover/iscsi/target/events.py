"""The events that a target session reports to its owner."""

from __future__ import annotations

import msgspec

from holdover.scsi.command import Command


class LoginCompleted(msgspec.Struct, frozen=True):
    """An initiator has logged in; call `admit` or `refuse`. Nothing else happens until then.

    Attributes:
        initiator: Its iSCSI name, in lower case.
        alias: The alias of the initiator, or "".
        isid: The ISID of the initiator, 6 bytes.
        tsih: 0 for a new session; otherwise the session that the initiator wants to join.
        discovery: Whether the session is a discovery session.
    """

    initiator: str
    alias: str
    isid: bytes
    tsih: int
    discovery: bool


class CommandReceived(msgspec.Struct, frozen=True, gc=False):
    """A command with all its data; call `respond` with the tag when it is done.

    Attributes:
        tag: The Initiator Task Tag.
        lun: The logical unit number; None for an address that has no number here.
    """

    tag: int
    lun: int | None
    command: Command


class TaskManagementReceived(msgspec.Struct, frozen=True):
    """A task management function; call `answer_task_management` when it is done.

    Attributes:
        tag: Initiator Task Tag of the function itself.
        function: A `TaskManagementFunction`, or another number.
        lun: The logical unit number; None for an address that has no number here.
        tasks: The tags of this session's commands that the function ends. The session has forgotten these
            commands already, and sends no response for them; make sure that they have stopped before you
            answer.
        found: For ABORT TASK, whether the command existed, or can never come from now on.
    """

    tag: int
    function: int
    lun: int | None
    tasks: tuple[int, ...]
    found: bool


class Closed(msgspec.Struct, frozen=True):
    """The session is over: stop its commands, send the remaining bytes and close the connection."""

    reason: str


TargetEvent = LoginCompleted | CommandReceived | TaskManagementReceived | Closed
