"""One command of an initiator session and what has come of its Data-In (RFC 7143 11.7)."""

from __future__ import annotations

from holdover.iscsi.errors import ProtocolError
from holdover.iscsi.header import Buffer
from holdover.iscsi.responses import DataIn
from holdover.scsi.command import Command

__all__ = ["InitiatorTask"]


class InitiatorTask:
    """A command on its way.

    Attributes:
        tag: Initiator Task Tag.
        lun: LUN field.
        cmd_sn: CmdSN with which it was sent.
        sent: Whether it was.
        parts: Data-In so far, in order.
        received: Their length.
        data_sn: DataSN of the next.
    """

    __slots__ = ("cmd_sn", "command", "data_sn", "lun", "parts", "received", "sent", "tag")

    def __init__(self, tag: int, lun: int, command: Command) -> None:
        self.tag = tag
        self.lun = lun
        self.command = command
        self.cmd_sn = 0
        self.sent = False
        self.parts: list[Buffer] = []
        self.received = 0
        self.data_sn = 0

    def take(self, pdu: DataIn) -> None:
        """The next piece of Data-In; pieces come in order: so it was negotiated."""
        end = pdu.offset + len(pdu.data)
        if pdu.data_sn != self.data_sn or pdu.offset != self.received:
            raise ProtocolError(f"Data-In {pdu.data_sn} at {pdu.offset} out of order")
        if end > self.command.data_in_length:
            raise ProtocolError(f"Data-In up to {end} where {self.command.data_in_length} bytes may come")
        self.data_sn += 1
        self.received = end
        if pdu.data:
            self.parts.append(pdu.data)
