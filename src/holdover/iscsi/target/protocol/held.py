"""The requests of a session that have come too early (RFC 7143 4.2.2.1)."""

from __future__ import annotations

from collections.abc import Callable

from holdover.iscsi.numbers import serial_distance
from holdover.iscsi.requests import LogoutRequest, NopOut, ScsiCommand, TaskManagementRequest, TextRequest
from holdover.iscsi.target.protocol.numbers import TargetNumbers
from holdover.iscsi.target.protocol.task import TargetTask

Numbered = ScsiCommand | TaskManagementRequest | TextRequest | LogoutRequest | NopOut
"""A request with a CmdSN."""
OTHER_NUMBERED = (TaskManagementRequest, TextRequest, LogoutRequest, NopOut)
"""Those that are no commands."""


class HeldRequests(dict[int, Numbered | TargetTask | None]):
    """What is done when its turn has come, by CmdSN: a request, a command, or nothing for a dropped one."""

    def drop(self, function: TaskManagementRequest, chosen: Callable[[TargetTask], bool]) -> list[TargetTask]:
        """Drop the commands whose CmdSN is before that of a function; returns them."""
        dropped = []
        for cmd_sn, item in self.items():
            before = serial_distance(cmd_sn, function.cmd_sn) > 0
            if before and isinstance(item, TargetTask) and chosen(item):
                self[cmd_sn] = None
                dropped.append(item)
        return dropped

    def give_up(self, function: TaskManagementRequest, numbers: TargetNumbers) -> bool:
        """ABORT TASK for a command that never came: its CmdSN counts as received (11.5.5). Returns whether
        there is such a command.
        """
        missing = function.ref_cmd_sn
        before = serial_distance(missing, function.cmd_sn) > 0
        if not before or numbers.ahead(missing) is None or missing in self:
            return False
        self[missing] = None
        return True
