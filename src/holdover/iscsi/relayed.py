"""Plain commands that go from a session at an export to a session with the target, header by header; pure.

A plain command is a READ or WRITE that comes in one PDU, with all of its data. Its plain answer is one PDU
with GOOD, and with all that was asked for. Nothing is made for them but a `RelayedCommand`. As soon as
anything else happens to such a command, it becomes an ordinary one in both sessions, and their rules for all
other cases apply. Only the code for plain PDUs knows that relayed commands exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from holdover.iscsi.header import Buffer
from holdover.iscsi.requests import ScsiCommand
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, DeviceServer, Forwarded, Response
from holdover.scsi.nexus import ITNexus

PLAIN_OPCODES = frozenset(
    int(each)
    for each in (OperationCode.READ_10, OperationCode.READ_16, OperationCode.WRITE_10, OperationCode.WRITE_16)
)
"""The commands that may be plain: they concern data alone, and no reservation."""

MOST_DATA = 65536
"""The most bytes of a plain command's data: a longer PDU seldom comes in one piece."""


class NearEnd(Protocol):
    """The export's end of relayed commands: one session."""

    def answer(self, command: RelayedCommand, data: Buffer) -> None:
        """Pass on the plain answer of a command, with the data that were read."""
        ...

    def ordinary(self, command: RelayedCommand) -> None:
        """Make a command an ordinary one, in both sessions."""
        ...


class FarSession(Protocol):
    """The session with the target.

    Attributes:
        room: How many commands it can send now.
        immediate_length: The most data that may go with a command.
    """

    room: int
    immediate_length: int

    def relay(self, command: RelayedCommand, expected: int) -> None:
        """Send a command, with its Expected Data Transfer Length; there must be `room`."""
        ...


class FarEnd(Protocol):
    """The target's end of relayed commands: one LUN of one session.

    Attributes:
        lun: The LUN field.
    """

    lun: int

    @property
    def session(self) -> FarSession:
        """The session."""
        ...

    def begun(self) -> None:
        """Note that a command was given to the session."""
        ...

    def ended(self) -> None:
        """Note that a command has had its plain answer."""
        ...

    def flush_soon(self) -> None:
        """Have the session's bytes sent soon."""
        ...

    def ordinary(
        self, relayed: RelayedCommand, command: Command, answered: Callable[[Response], None]
    ) -> Forwarded:
        """Make a command an ordinary one at this end; ``answered`` gets its response."""
        ...


class RelayingDeviceServer(DeviceServer, Protocol):
    """A device server whose plain commands may go from one session to another."""

    def far_end(self, nexus: ITNexus) -> FarEnd | None:
        """Where plain commands of a nexus go at this moment, which lasts until the loop's next step; None:
        they are ordinary ones."""
        ...


class RelayedCommand(msgspec.Struct, eq=False):
    """A plain command that is at the target.

    Attributes:
        near, far: Its two ends.
        tag, lun: The Initiator Task Tag and the LUN field of the session at the export.
        flags: Byte 1 of its PDU.
        cdb: The CDB.
        data: The data to write; empty for a read.
        read_length: The bytes to read; 0 for a write.
        far_tag, cmd_sn: The Initiator Task Tag and the CmdSN of the session with the target.
    """

    near: NearEnd
    far: FarEnd
    tag: int
    lun: int
    flags: int
    cdb: bytes
    data: bytes
    read_length: int
    far_tag: int = 0
    cmd_sn: int = 0

    def pdu(self) -> ScsiCommand:
        """The PDU that has come, without its serial numbers."""
        reads = self.read_length > 0
        length = self.read_length or len(self.data)
        return ScsiCommand(
            self.tag, self.lun, self.cdb, length, 0, read=reads, write=not reads, data=self.data
        )


class RelayedCommands(dict[int, RelayedCommand]):
    """The relayed commands of one session, by their tags there."""

    def make_all_ordinary(self) -> None:
        """Make all of them ordinary ones, in both sessions."""
        for each in list(self.values()):
            each.near.ordinary(each)
