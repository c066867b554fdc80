"""The serial numbers of a target session: StatSN, and the window of CmdSN (RFC 7143 4.2.2)."""

from __future__ import annotations

from holdover.iscsi.numbers import serial_distance


class TargetNumbers:
    """The numbers that every response carries.

    Attributes:
        stat_sn: The StatSN of the next status.
        exp_cmd_sn: The CmdSN of the next expected request.
        open_commands: The number of non-immediate commands that had their turn and are not answered.
    """

    __slots__ = ("_max_commands", "exp_cmd_sn", "open_commands", "stat_sn")

    def __init__(self, max_commands: int) -> None:
        self.stat_sn = 0
        self.exp_cmd_sn = 0
        self.open_commands = 0
        self._max_commands = max_commands

    @property
    def max_cmd_sn(self) -> int:
        """The last CmdSN that the session accepts: it allows as many commands as may be open at once."""
        return (self.exp_cmd_sn + self._max_commands - self.open_commands - 1) & 0xFFFF_FFFF

    def next_stat_sn(self) -> int:
        """StatSN for a status that is sent now."""
        stat_sn = self.stat_sn
        self.stat_sn = (stat_sn + 1) & 0xFFFF_FFFF
        return stat_sn

    def next_status(self) -> tuple[int, int, int]:
        """StatSN, ExpCmdSN and MaxCmdSN for a status that is sent now."""
        return self.next_stat_sn(), self.exp_cmd_sn, self.max_cmd_sn

    def take(self, cmd_sn: int) -> bool:
        """Advance if this is the next expected request, and within the window: most requests are."""
        if cmd_sn != self.exp_cmd_sn or self.open_commands >= self._max_commands:
            return False
        self.exp_cmd_sn = (cmd_sn + 1) & 0xFFFF_FFFF
        return True

    def ahead(self, cmd_sn: int) -> int | None:
        """The number of requests that must come before this one; None for one outside the window."""
        ahead = serial_distance(self.exp_cmd_sn, cmd_sn)
        return ahead if 0 <= ahead < self._max_commands - self.open_commands else None

    def advance(self) -> None:
        """Note that the next expected request has come."""
        self.exp_cmd_sn = (self.exp_cmd_sn + 1) & 0xFFFF_FFFF
