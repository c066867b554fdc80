"""One command of a target session while its Data-Out comes in (RFC 7143 4.2.5.2, 11.7, 11.8), and which
commands task management ends (11.5.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from holdover.iscsi.errors import ProtocolError
from holdover.iscsi.header import Buffer
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import NO_TAG, TaskManagementFunction
from holdover.iscsi.requests import DataOut, ScsiCommand, TaskManagementRequest
from holdover.iscsi.sense import (
    INCORRECT_AMOUNT_OF_DATA,
    PROTOCOL_SERVICE_CRC_ERROR,
    UNEXPECTED_UNSOLICITED_DATA,
)
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

__all__ = ["TargetTask", "concerned_by"]


@dataclass(slots=True)
class _Sequence:
    """Data-Out PDUs that belong together: the unsolicited ones, or those that one R2T asked for."""

    target_tag: int
    end: int
    data_sn: int = 0


class TargetTask:
    """A command and its Data-Out so far. Data come in order: so it was negotiated.

    Attributes:
        tag: Initiator Task Tag.
        lun: LUN field as it came.
        immediate: Whether it stands outside the order of CmdSN.
        read_length, write_length: Sizes of the initiator's Data-In and Data-Out buffers, bytes.
        received: Bytes of Data-Out that are there.
        requested: Bytes of Data-Out that are there or have been asked for.
        r2t_sn: R2Ts sent so far.
        reserved: Bytes that the session set aside for this command.
        started: Whether its turn by CmdSN has come.
        damaged: Whether data came that are not what their digest says.
        failure: How the command ends without having been carried out, or None.
    """

    __slots__ = (
        "_cdb",
        "_parts",
        "_sequences",
        "bidirectional",
        "damaged",
        "delivered",
        "failure",
        "immediate",
        "lun",
        "r2t_sn",
        "read_length",
        "received",
        "requested",
        "reserved",
        "started",
        "tag",
        "write_length",
    )

    def __init__(self, pdu: ScsiCommand, parameters: Parameters, max_data_out: int) -> None:
        self.tag = pdu.task_tag
        self.lun = pdu.lun
        self.immediate = pdu.immediate
        self.bidirectional = pdu.read and pdu.write
        self.write_length = pdu.expected_length if pdu.write else 0
        self.read_length = 0
        if pdu.read:
            self.read_length = (pdu.read_length or 0) if pdu.write else pdu.expected_length
        self.r2t_sn = 0
        self.reserved = 0
        self.started = False
        self.damaged = False
        self.delivered = False
        self._cdb = pdu.cdb
        self._parts: list[Buffer] = [pdu.data] if pdu.data else []
        self._sequences: deque[_Sequence] = deque()
        self.received = self.requested = len(pdu.data)
        self.failure = _first_failure(pdu, parameters, self.write_length, max_data_out)
        if not pdu.final and self.failure is None:
            end = min(parameters.first_burst_length, self.write_length)
            self.requested = end
            self._sequences.append(_Sequence(NO_TAG, end))

    @property
    def open_sequences(self) -> int:
        """Sequences of Data-Out PDUs that are not at their end."""
        return len(self._sequences)

    @property
    def awaits_unsolicited(self) -> bool:
        """Whether the initiator is still sending data that no R2T asked for."""
        return bool(self._sequences) and self._sequences[0].target_tag == NO_TAG

    @property
    def complete(self) -> bool:
        """Whether all of the Data-Out buffer is there, or the command failed without it."""
        return self.failure is not None or (self.received == self.write_length and not self._sequences)

    def request(self, target_tag: int, length: int) -> int:
        """Note that an R2T asks for the next bytes; return their offset."""
        offset = self.requested
        self.requested += length
        self._sequences.append(_Sequence(target_tag, self.requested))
        return offset

    def receive(self, pdu: DataOut) -> None:
        """Take in a Data-Out PDU. One that nobody may send here fails the command."""
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
        """Take in a Data-Out PDU whose data are not what their digest says. The command fails, but not before
        all is there that the initiator is sending (RFC 7143 7.8)."""
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
            self._parts.append(pdu.data)
        self.received = end
        sequence.data_sn += 1
        if pdu.final:
            self._sequences.popleft()
            if sequence.target_tag == NO_TAG:
                # An initiator may send less unsolicited data than FirstBurstLength allows.
                self.requested = end
            elif end != sequence.end:
                raise ProtocolError("less data than were asked for")

    def fail(self, failure: Response) -> None:
        """End the command with a status of the transport; data that came are dropped."""
        self.failure = failure
        self._parts.clear()
        self._sequences.clear()

    def command(self) -> Command:
        """The whole command. Hands its data over, so call it once."""
        self.delivered = True
        parts, self._parts = self._parts, []
        return Command(self._cdb, b"".join(parts), self.read_length)


def _first_failure(
    pdu: ScsiCommand, parameters: Parameters, write_length: int, max_data_out: int
) -> Response | None:
    """What is wrong with a command before any Data-Out PDU has come."""
    length = len(pdu.data)
    if (length and not (pdu.write and parameters.immediate_data)) or (
        not pdu.final and (parameters.initial_r2t or not pdu.write)
    ):
        return UNEXPECTED_UNSOLICITED_DATA
    if length > min(parameters.first_burst_length, write_length):
        return INCORRECT_AMOUNT_OF_DATA
    if write_length > max_data_out:
        return check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
    return None


def concerned_by(pdu: TaskManagementRequest) -> Callable[[TargetTask], bool]:
    """Which commands of its own session a task management function ends."""
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
