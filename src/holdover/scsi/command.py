"""A SCSI command on its way to a logical unit, and the answer on its way back (SAM-5 5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status

__all__ = ["Command", "DeviceServer", "Response"]


@dataclass(frozen=True, slots=True)
class Command:
    """One command as an application client sends it.

    Attributes:
        cdb: The CDB as it came, 6 to 260 bytes; longer ones are possible, shorter ones are bad input.
        data_out: The Data-Out buffer. May hold fewer bytes than the CDB's transfer or parameter list
            length names (the initiator's buffer was shorter): whoever decodes must look.
        data_in_length: Size of the initiator's Data-In buffer, bytes. The transport cuts what is longer.
    """

    cdb: bytes
    data_out: bytes = b""
    data_in_length: int = 0

    @property
    def opcode(self) -> int:
        """The operation code; -1 for an empty CDB, so that it matches no operation code."""
        return self.cdb[0] if self.cdb else -1


@dataclass(frozen=True, slots=True)
class Response:
    """How a command ended.

    Attributes:
        status: The status code.
        data_in: The Data-In buffer, already cut to the CDB's allocation length, never padded.
        sense: Sense data as it stands on the wire (fixed or descriptor format); empty without any.
        data_out_length: Bytes of Data-Out that the CDB asks for, from which the transport tells what was too
            many or too few; None for as many as the initiator has.
    """

    status: Status
    data_in: bytes = b""
    sense: bytes = b""
    data_out_length: int | None = None

    @property
    def good(self) -> bool:
        """Whether the command did what it says."""
        return self.status is Status.GOOD


class DeviceServer(Protocol):
    """What answers the commands of one logical unit number: an embedded LUN, a guest's ScsiBlock."""

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command. Never raises for what an application client sent; cancelling the
        task that awaits it aborts the command."""
        ...

    async def reset(self) -> None:
        """LOGICAL UNIT RESET (SAM-5 7.7)."""
        ...
