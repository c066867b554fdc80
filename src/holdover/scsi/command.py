"""A SCSI command on its way to a logical unit, and the answer on its way back (SAM-5 5.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status


class Command(msgspec.Struct, frozen=True, gc=False):
    """One command as an application client sends it.

    Attributes:
        cdb: The CDB as the initiator sent it, 6 to 260 bytes; longer CDBs are possible, and shorter ones are
            bad input.
        data_out: The Data-Out buffer. It may have fewer bytes than the CDB's transfer length or parameter
            list length says (when the initiator's buffer is shorter), so the code that decodes it must check.
        data_in_length: The size of the initiator's Data-In buffer in bytes. The transport cuts longer data.
        leave_absent: For a multipath device: carry out a REGISTER by the paths that can be reached, and do
            not change the registrations of the other paths. A handover sets this, because it counts these
            registrations itself. The other host has the same key: no path of this device may change the
            registrations with it, and they are no reason to refuse the command.
    """

    cdb: bytes
    data_out: bytes = b""
    data_in_length: int = 0
    leave_absent: bool = False

    @property
    def opcode(self) -> int:
        """The operation code; -1 for an empty CDB, so that it matches no operation code."""
        return self.cdb[0] if self.cdb else -1


class Response(msgspec.Struct, frozen=True, eq=False, gc=False):
    """How a command ended.

    Attributes:
        status: The status code.
        data_in: The Data-In buffer, already cut to the CDB's allocation length, never padded.
        sense: Sense data as on the wire, in fixed or descriptor format; empty when there are none.
        data_out_length: The bytes of Data-Out that the CDB asks for. From this the transport computes how
            many bytes were too many or too few. None means as many bytes as the initiator has.
        data_in_length: The bytes of Data-In that the CDB asks for, when the transport of the response has cut
            `data_in` to a shorter Data-In buffer; None when `data_in` is whole.
        carried: When one device of a host has several I_T nexuses (multipath): the initiator port of each
            path that answered this command with GOOD, one entry for each path. Two entries are equal exactly
            when the logical unit sees one initiator port. Empty when the device has one I_T nexus. This field
            says how the command travelled, not how it ended, so a comparison of two responses ignores it.
    """

    status: Status
    data_in: bytes = b""
    sense: bytes = b""
    data_out_length: int | None = None
    data_in_length: int | None = None
    carried: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the command succeeded."""
        return self.status is Status.GOOD

    def __eq__(self, other: object) -> bool:
        return self._compared == other._compared if isinstance(other, Response) else NotImplemented

    def __ne__(self, other: object) -> bool:
        # a structure has one of its own, which goes by identity
        return not self == other

    def __hash__(self) -> int:
        return hash(self._compared)

    @property
    def _compared(self) -> tuple[object, ...]:
        return (self.status, self.data_in, self.sense, self.data_out_length, self.data_in_length)


class DeviceServer(Protocol):
    """Answers the commands of one logical unit number: an embedded LUN, or a guest's ScsiBlock."""

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command. Never raises for bad input of an application client.

        Cancelling the task that awaits this aborts the command.
        """
        ...

    async def reset(self) -> None:
        """Carry out a LOGICAL UNIT RESET (SAM-5 7.7)."""
        ...


class ImmediateDeviceServer(DeviceServer, Protocol):
    """A device server that can answer most commands without waiting for anything."""

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        """As `execute`, or None for a command that has to wait and for which nothing was done yet."""
        ...


class Forwarded(Protocol):
    """A command that a device server has passed on, and that has not ended."""

    async def abort(self) -> None:
        """Abort the command; return when it does nothing to the logical unit any more.

        From now on nobody is told its response.
        """
        ...


class ForwardingDeviceServer(DeviceServer, Protocol):
    """A device server that passes most commands on to a logical unit elsewhere, without a task for each."""

    def forward(
        self, nexus: ITNexus, command: Command, answered: Callable[[Response], None]
    ) -> Forwarded | None:
        """Begin a command; None for one that `execute` must carry out, and for which nothing was done yet.

        ``answered`` is called with the response, once, and never before this has returned.
        """
        ...


class NexusAware(DeviceServer, Protocol):
    """A device server that keeps something for each I_T nexus that ends with it."""

    async def nexus_lost(self, nexus: ITNexus) -> None:
        """I_T nexus loss (SAM-5 6.3.4)."""
        ...
