"""The commands that a logical unit supports, as parameter data.

The data are those of REPORT SUPPORTED OPERATION CODES (SPC-4 6.35) and REPORT SUPPORTED TASK MANAGEMENT
FUNCTIONS (SPC-4 6.36).

The encoders return the whole data; the code that answers a command cuts them to the command's allocation
length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_NOT_SUPPORTED, _AS_THE_STANDARD = 0x1, 0x3
_SERVACTV, _CTDP = 0x01, 0x02
_TIMEOUTS_LENGTH = 0x0A


@dataclass(frozen=True, slots=True)
class SupportedCommand:
    """One command, or one service action of a command.

    Attributes:
        operation_code: The operation code.
        service_action: The service action; None for an operation code without service actions.
        usage: CDB USAGE DATA, as long as the CDB: the bits of the CDB that the logical unit evaluates.
        nominal: The seconds that the command usually takes; 0 means not given.
        recommended: The seconds after which an application client may give the command up; 0 means not given.
    """

    operation_code: int
    service_action: int | None
    usage: bytes
    nominal: int = 0
    recommended: int = 0

    def _timeouts(self) -> bytes:
        return (
            _TIMEOUTS_LENGTH.to_bytes(2, "big")
            + bytes(2)
            + self.nominal.to_bytes(4, "big")
            + self.recommended.to_bytes(4, "big")
        )

    def _descriptor(self, timeouts: bool) -> bytes:
        flags = _CTDP * timeouts | _SERVACTV * (self.service_action is not None)
        return (
            bytes([self.operation_code, 0])
            + (self.service_action or 0).to_bytes(2, "big")
            + bytes([0, flags])
            + len(self.usage).to_bytes(2, "big")
            + (self._timeouts() if timeouts else b"")
        )

    def _alone(self, timeouts: bool) -> bytes:
        head = bytes([0, timeouts << 7 | _AS_THE_STANDARD]) + len(self.usage).to_bytes(2, "big")
        return head + self.usage + (self._timeouts() if timeouts else b"")


def encode_all_commands(commands: Iterable[SupportedCommand], timeouts: bool) -> bytes:
    """The data for all commands (SPC-4 6.35.2); ``timeouts`` adds a timeouts descriptor to each."""
    body = b"".join(each._descriptor(timeouts) for each in commands)
    return len(body).to_bytes(4, "big") + body


def encode_one_command(command: SupportedCommand | None, timeouts: bool) -> bytes:
    """The data for one command (SPC-4 6.35.3); None stands for a command that is not supported."""
    return bytes([0, _NOT_SUPPORTED, 0, 0]) if command is None else command._alone(timeouts)


@dataclass(frozen=True, slots=True)
class TaskManagementFunctions:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS data (SPC-4 6.36)."""

    abort_task: bool = False
    abort_task_set: bool = False
    clear_task_set: bool = False
    logical_unit_reset: bool = False
    target_reset: bool = False

    def encode(self, extended: bool = False) -> bytes:
        """The data: 4 bytes, or 16 in the extended form, which gives no timeouts."""
        functions = (
            self.abort_task << 7
            | self.abort_task_set << 6
            | self.clear_task_set << 4
            | self.logical_unit_reset << 3
            | self.target_reset << 1
        )
        if not extended:
            return bytes([functions, 0, 0, 0])
        return bytes([functions, 0, 0, 12]) + bytes(12)
