"""One command of an initiator session: what is sent for it, and what has come of its Data-In (RFC 7143 11.3,
11.7)."""

from __future__ import annotations

from collections.abc import Iterator

from holdover.iscsi.errors import ProtocolError
from holdover.iscsi.header import Buffer
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import NO_TAG
from holdover.iscsi.requests import DataOut, ScsiCommand
from holdover.iscsi.responses import DataIn
from holdover.scsi.command import Command

__all__ = ["InitiatorTask"]


class InitiatorTask:
    """A command on its way.

    Attributes:
        tag: Initiator Task Tag.
        lun: LUN field.
        cmd_sn: CmdSN with which it was sent.
        attempts: How often it was sent.
        parts: Data-In so far, in order.
        received: Their length.
        data_sn: DataSN of the next.
    """

    __slots__ = ("attempts", "cmd_sn", "command", "data_sn", "lun", "parts", "received", "tag")

    def __init__(self, tag: int, lun: int, command: Command) -> None:
        self.tag = tag
        self.lun = lun
        self.command = command
        self.cmd_sn = 0
        self.attempts = 0
        self.parts: list[Buffer] = []
        self.received = 0
        self.data_sn = 0

    @property
    def sent(self) -> bool:
        """Whether any of it was given to the connection."""
        return self.attempts > 0

    def pdus(self, parameters: Parameters, exp_stat_sn: int) -> Iterator[ScsiCommand | DataOut]:
        """The command, the immediate data and the unsolicited data that the negotiation allows."""
        command = self.command
        length = len(command.data_out)
        immediate = min(length, parameters.immediate_length)
        unsolicited = immediate if parameters.initial_r2t else min(length, parameters.first_burst_length)
        both = length > 0 and command.data_in_length > 0
        data: Buffer = command.data_out
        yield ScsiCommand(
            self.tag,
            self.lun,
            command.cdb,
            length or command.data_in_length,
            self.cmd_sn,
            exp_stat_sn,
            read=command.data_in_length > 0,
            write=length > 0,
            final=unsolicited == immediate,
            data=data if immediate == length else memoryview(data)[:immediate],
            read_length=command.data_in_length if both else None,
        )
        if unsolicited > immediate:
            yield from self.data_pdus(immediate, unsolicited, NO_TAG, parameters, exp_stat_sn)

    def data_pdus(
        self, start: int, end: int, target_tag: int, parameters: Parameters, exp_stat_sn: int
    ) -> Iterator[DataOut]:
        """One sequence of Data-Out PDUs, for those bytes of the Data-Out buffer."""
        data = memoryview(self.command.data_out)
        segment = parameters.max_send_data_segment_length
        for data_sn, at in enumerate(range(start, end, segment)):
            stop = min(at + segment, end)
            yield DataOut(
                self.tag, target_tag, self.lun, data_sn, at, data[at:stop], stop == end, exp_stat_sn
            )

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
