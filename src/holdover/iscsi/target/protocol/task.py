"""One command of a target session while its Data-Out arrives (RFC 7143 4.2.5.2, 11.7, 11.8), and the choice
of the commands that task management ends (11.5.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdover.iscsi.errors import ProtocolError
from holdover.iscsi.header import Buffer
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import NO_TAG, TaskManagementFunction
from holdover.iscsi.requests import DataOut, ScsiCommand, TaskManagementRequest
from holdover.iscsi.target.protocol.sense import (
    INCORRECT_AMOUNT_OF_DATA,
    PROTOCOL_SERVICE_CRC_ERROR,
    UNEXPECTED_UNSOLICITED_DATA,
)
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

_TOO_LONG = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


@dataclass(slots=True)
class _Sequence:
    """Data-Out PDUs that belong together: the unsolicited ones, or those that one R2T asked for."""

    target_tag: int
    end: int
    data_sn: int = 0


class TargetTask:
    """A command and its Data-Out so far. The negotiation requires that data come in order.

    Attributes:
        tag: The Initiator Task Tag.
        lun: The LUN field from the initiator.
        immediate: Whether the command is outside the order of CmdSN.
        read_length, write_length: The sizes of the initiator's Data-In and Data-Out buffers in bytes.
        received: The bytes of Data-Out that have come.
        requested: The bytes of Data-Out that have come, or that the target has asked for.
        r2t_sn: The number of R2Ts sent so far.
        reserved: The bytes that are reserved for this command.
        unsolicited: The reserved bytes that come unsolicited.
        started: Whether the command has had its turn by CmdSN.
        damaged: Whether data came that do not match their digest.
        failure: The response if the command ends without being carried out, or None.
    """

    # Most commands never change these. So they stand with the class, and no command has to set each.
    bidirectional = False
    read_length = 0
    write_length = 0
    received = 0
    requested = 0
    r2t_sn = 0
    reserved = 0
    unsolicited = 0
    started = False
    damaged = False
    delivered = False
    failure: Response | None = None
    _immediate_data = b""
    _parts: list[Buffer] | None = None
    _sequences: tuple[_Sequence, ...] = ()

    def __init__(self, pdu: ScsiCommand, parameters: Parameters, max_out: int, max_in: int) -> None:
        self.tag = pdu.task_tag
        self.lun = pdu.lun
        self.immediate = pdu.immediate
        self._cdb = pdu.cdb
        if pdu.write:
            self.write_length = pdu.expected_length
        if pdu.read:
            self.bidirectional = pdu.write
            self.read_length = (pdu.read_length or 0) if pdu.write else pdu.expected_length
        if pdu.data:
            self._immediate_data = bytes(pdu.data)
            self.received = self.requested = len(pdu.data)
        if pdu.data or not pdu.final:
            self.failure = _first_failure(pdu, parameters, self.write_length)
        if self.write_length > max_out or self.read_length > max_in:
            self.failure = self.failure or _TOO_LONG
        if not pdu.final and self.failure is None:
            end = min(parameters.first_burst_length, self.write_length)
            self.requested = end
            self._sequences = (_Sequence(NO_TAG, end),)

    @property
    def open_sequences(self) -> int:
        """The number of sequences of Data-Out PDUs that have not ended."""
        return len(self._sequences)

    @property
    def awaits_unsolicited(self) -> bool:
        """Whether the initiator still sends data that no R2T asked for."""
        return bool(self._sequences) and self._sequences[0].target_tag == NO_TAG

    @property
    def complete(self) -> bool:
        """Whether all of the Data-Out buffer has come, or the command failed without it."""
        return self.failure is not None or (self.received == self.write_length and not self._sequences)

    def request(self, target_tag: int, length: int) -> int:
        """Note that an R2T asks for the next bytes; returns their offset."""
        offset = self.requested
        self.requested += length
        self._sequences += (_Sequence(target_tag, self.requested),)
        return offset

    def receive(self, pdu: DataOut) -> None:
        """Take a Data-Out PDU. A PDU that is not allowed now fails the command."""
        if self.failure is not None or self.delivered:
            return
        if not self._sequences:
            self.fail(UNEXPECTED_UNSOLICITED_DATA)
            return
        try:
            self._receive(pdu, self._sequences[0])
        except ProtocolError:
            self.fail(INCORRECT_AMOUNT_OF_DATA)
        if self.damaged and not self._sequences:
            self.fail(PROTOCOL_SERVICE_CRC_ERROR)

    def receive_damaged(self, pdu: DataOut) -> None:
        """Take a Data-Out PDU whose data do not match their digest.

        The command fails when all data that the initiator is sending have come (RFC 7143 7.8).
        """
        self.damaged = True
        self.receive(pdu)

    def _receive(self, pdu: DataOut, sequence: _Sequence) -> None:
        end = pdu.offset + len(pdu.data)
        if (
            pdu.target_tag != sequence.target_tag
            or pdu.data_sn != sequence.data_sn
            or pdu.offset != self.received
            or end > sequence.end
        ):
            raise ProtocolError("data out of turn")
        if pdu.data:
            if self._parts is None:
                self._parts = [self._immediate_data]
            self._parts.append(pdu.data)
        self.received = end
        sequence.data_sn += 1
        if pdu.final:
            self._sequences = self._sequences[1:]
            if sequence.target_tag == NO_TAG:
                # An initiator may send less unsolicited data than FirstBurstLength allows.
                self.requested = end
            elif end != sequence.end:
                raise ProtocolError("less data than were asked for")

    def fail(self, failure: Response) -> None:
        """End the command with a status of the transport, and drop its data."""
        self.failure = failure
        self._immediate_data, self._parts, self._sequences = b"", None, ()

    def command(self) -> Command:
        """The whole command. This gives its data away, so call it only once."""
        self.delivered = True
        data, parts = self._immediate_data, self._parts
        if parts is not None:
            data = b"".join(parts)
        if data:
            self._immediate_data, self._parts = b"", None
        return Command(self._cdb, data, self.read_length)


def _first_failure(pdu: ScsiCommand, parameters: Parameters, write_length: int) -> Response | None:
    """The failure of a command before any Data-Out PDU has come; None if the command is right."""
    length = len(pdu.data)
    if (length and not (pdu.write and parameters.immediate_data)) or (
        not pdu.final and (parameters.initial_r2t or not pdu.write)
    ):
        return UNEXPECTED_UNSOLICITED_DATA
    if length > min(parameters.first_burst_length, write_length):
        return INCORRECT_AMOUNT_OF_DATA
    return None


def concerned_by(pdu: TaskManagementRequest) -> Callable[[TargetTask], bool]:
    """A predicate for the commands of its own session that a task management function ends."""
    if pdu.function == TaskManagementFunction.ABORT_TASK:
        return lambda task: task.tag == pdu.referenced_tag and task.lun == pdu.lun
    if pdu.function in (
        TaskManagementFunction.ABORT_TASK_SET,
        TaskManagementFunction.CLEAR_TASK_SET,
        TaskManagementFunction.LOGICAL_UNIT_RESET,
    ):
        return lambda task: task.lun == pdu.lun
    resets = (TaskManagementFunction.TARGET_WARM_RESET, TaskManagementFunction.TARGET_COLD_RESET)
    return lambda _: pdu.function in resets
