"""What a target session tells whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass

from holdover.scsi.command import Command

__all__ = ["Closed", "CommandReceived", "LoginCompleted", "TargetEvent", "TaskManagementReceived"]


@dataclass(frozen=True, slots=True)
class LoginCompleted:
    """An initiator has shown who it is; call `admit` or `refuse`. Nothing else happens until then.

    Attributes:
        initiator: Its iSCSI name, in lower case.
        alias: Its alias, or "".
        isid: Its ISID, 6 bytes.
        tsih: 0 for a new session; else the session it wants to join.
        discovery: Whether it is a discovery session.
    """

    initiator: str
    alias: str
    isid: bytes
    tsih: int
    discovery: bool


@dataclass(slots=True)
class CommandReceived:
    """A command with all its data; call `respond` with the tag when it is done.

    Attributes:
        tag: Initiator Task Tag.
        lun: Logical unit number, None for addressing that cannot name one here.
    """

    tag: int
    lun: int | None
    command: Command


@dataclass(frozen=True, slots=True)
class TaskManagementReceived:
    """A task management function; call `answer_task_management` when it is done.

    Attributes:
        tag: Initiator Task Tag of the function itself.
        function: One of `TaskManagementFunction` or a number that is none.
        lun: Logical unit number, None for addressing that cannot name one here.
        tasks: Tags of this session's commands that it ends. The session has forgotten them already
            and sends no response for them; make sure that they have stopped before answering.
        found: For ABORT TASK, whether there was such a command or it now can never come.
    """

    tag: int
    function: int
    lun: int | None
    tasks: tuple[int, ...]
    found: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over: stop its commands, send what is left and close the connection."""

    reason: str


TargetEvent = LoginCompleted | CommandReceived | TaskManagementReceived | Closed
