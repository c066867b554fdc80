"""One command of an initiator session: its PDUs to send, and its Data-In so far (RFC 7143 11.3, 11.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from holdover.iscsi.errors import ProtocolError
from holdover.iscsi.header import Buffer
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import NO_TAG, TaskAttribute
from holdover.iscsi.requests import DataOut, ScsiCommand
from holdover.iscsi.responses import DataIn
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status

_SIMPLE = int(TaskAttribute.SIMPLE)  # for every command: an enum's attribute costs 0.1 µs


class InitiatorTask:
    """A command on its way.

    Attributes:
        tag: The Initiator Task Tag.
        lun: The LUN field.
        cmd_sn: The CmdSN with which the command was sent.
        attempts: The number of times that the command was sent.
        received: The length of the Data-In so far.
        data_sn: The DataSN of the next Data-In PDU.
    """

    # Most commands never change these. So they stand with the class, and no command has to set each.
    cmd_sn = 0
    attempts = 0
    received = 0
    data_sn = 0
    _data = b""
    _parts: list[bytes] | None = None

    def __init__(self, tag: int, lun: int, command: Command) -> None:
        self.tag = tag
        self.lun = lun
        self.command = command

    @property
    def sent(self) -> bool:
        """Whether any part of the command was handed to the connection."""
        return self.attempts > 0

    def pdus(self, parameters: Parameters, exp_stat_sn: int) -> Iterable[ScsiCommand | DataOut]:
        """The command, the immediate data and the unsolicited data that the negotiation allows."""
        command = self.command
        data: Buffer = command.data_out
        length, room = len(data), command.data_in_length
        immediate = unsolicited = 0
        if length:
            immediate = min(length, parameters.immediate_length)
            unsolicited = immediate if parameters.initial_r2t else min(length, parameters.first_burst_length)
            if immediate < length:
                data = memoryview(data)[:immediate]
        pdu = ScsiCommand(
            self.tag,
            self.lun,
            command.cdb,
            length or room,
            self.cmd_sn,
            exp_stat_sn,
            room > 0,
            length > 0,
            unsolicited == immediate,
            _SIMPLE,
            False,
            data,
            room if length and room else None,
        )
        if unsolicited == immediate:
            return (pdu,)
        return chain((pdu,), self.data_pdus(immediate, unsolicited, NO_TAG, parameters, exp_stat_sn))

    def data_pdus(
        self, start: int, end: int, target_tag: int, parameters: Parameters, exp_stat_sn: int
    ) -> Iterator[DataOut]:
        """One sequence of Data-Out PDUs, for the bytes `start` to `end` of the Data-Out buffer."""
        data = memoryview(self.command.data_out)
        segment = parameters.max_send_data_segment_length
        for data_sn, at in enumerate(range(start, end, segment)):
            stop = min(at + segment, end)
            yield DataOut(
                self.tag, target_tag, self.lun, data_sn, at, data[at:stop], stop == end, exp_stat_sn
            )

    def take(self, pdu: DataIn) -> None:
        """Take the next piece of Data-In. The negotiation requires that pieces come in order."""
        end = pdu.offset + len(pdu.data)
        if pdu.data_sn != self.data_sn or pdu.offset != self.received:
            raise ProtocolError(f"Data-In {pdu.data_sn} at {pdu.offset} out of order")
        if end > self.command.data_in_length:
            raise ProtocolError(f"Data-In up to {end} where {self.command.data_in_length} bytes may come")
        self.data_sn += 1
        self.received = end
        data = bytes(pdu.data)
        if not self._data:
            self._data = data
        elif self._parts is None:
            self._parts = [self._data, data]
        else:
            self._parts.append(data)

    def response(self, status: Status, sense: bytes, residual: int, read_residual: int) -> Response:
        """The complete answer, with the lengths that the residuals report of the CDB (RFC 7143 11.4.5).

        Args:
            status: The status code.
            sense: The sense data.
            residual: The bytes that the CDB asks for beyond the expected length; negative if it asks for
                less.
            read_residual: The same for Data-In, for a command in both directions.
        """
        data = self._data if self._parts is None else b"".join(self._parts)
        if not residual and not read_residual:
            return Response(status, data, sense)
        data_out, room = len(self.command.data_out), self.command.data_in_length
        reads = room > 0 and not data_out
        asked_out = None if reads or not residual else max(data_out + residual, 0)
        over = residual if reads else read_residual
        asked_in = room + over if over > 0 else None  # of less than there is room for, the data tell
        return Response(status, data, sense, asked_out, asked_in)
