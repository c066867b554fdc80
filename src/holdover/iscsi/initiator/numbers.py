"""The serial numbers of an initiator's session, and the target's window of CmdSN (RFC 7143 4.2.2)."""

from __future__ import annotations

from holdover.iscsi.numbers import serial_distance


class InitiatorNumbers:
    """The numbers that every request carries.

    Attributes:
        cmd_sn: The CmdSN of the next request.
        exp_stat_sn: The StatSN of the next expected status.
        room: How many commands the target's window still takes.
    """

    __slots__ = ("_max_cmd_sn", "cmd_sn", "exp_stat_sn", "room")

    def __init__(self) -> None:
        self.cmd_sn = 1
        self.exp_stat_sn = 0
        self.room = 0
        self._max_cmd_sn = 1

    def next_cmd_sn(self) -> int:
        """CmdSN for a command that is sent now."""
        cmd_sn = self.cmd_sn
        self.cmd_sn = (cmd_sn + 1) & 0xFFFF_FFFF
        self.room -= 1
        return cmd_sn

    def begin(self, max_cmd_sn: int) -> None:
        """Note the window with which full feature phase begins."""
        self._max_cmd_sn = max_cmd_sn
        self.room = serial_distance(self.cmd_sn, max_cmd_sn) + 1

    def note_status(self, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> bool:
        """Note a PDU that carries status; returns whether there is more room than before."""
        self.exp_stat_sn = (stat_sn + 1) & 0xFFFF_FFFF
        return max_cmd_sn != self._max_cmd_sn and self.note_window(exp_cmd_sn, max_cmd_sn)

    def note_window(self, exp_cmd_sn: int, max_cmd_sn: int) -> bool:
        """Note MaxCmdSN, which never goes back (4.2.2.1); returns whether there is more room than before."""
        more = serial_distance(self._max_cmd_sn, max_cmd_sn)
        if more <= 0 or serial_distance(exp_cmd_sn, max_cmd_sn) < -1:
            return False
        self._max_cmd_sn = max_cmd_sn
        self.room += more
        return True
