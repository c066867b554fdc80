"""Relays the plain commands of one session at an export (see `holdover.iscsi.relayed`); pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from holdover.iscsi.header import FINAL, HEADER_LENGTH, Buffer
from holdover.iscsi.names import decode_lun
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import Opcode
from holdover.iscsi.relayed import MOST_DATA, PLAIN_OPCODES, FarEnd, RelayedCommand
from holdover.iscsi.requests import COMMAND, READS, WRITES
from holdover.iscsi.responses import good_response, whole_data_in
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.events import CommandReceived
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.iscsi.target.protocol.task import TargetTask
from holdover.scsi.command import Forwarded, Response

_PLAIN_FIRST = int(Opcode.SCSI_COMMAND)
_KIND = FINAL | READS | WRITES
_PLAIN_READ, _PLAIN_WRITE = FINAL | READS, FINAL | WRITES


class RelayOwner(Protocol):
    """The connection of a session that relays."""

    @property
    def takes_commands(self) -> bool:
        """Whether a command that comes now may begin, and does not wait behind others."""
        ...

    def far_end(self, lun: int) -> FarEnd | None:
        """Where plain commands for a LUN field go at this moment; None: they are ordinary ones."""
        ...

    def relayed_ended(self, read_length: int) -> None:
        """Note that the session has the answer of a relayed command to send."""
        ...

    def adopt(
        self, event: CommandReceived, forward: Callable[[Callable[[Response], None]], Forwarded]
    ) -> None:
        """Have a command, which is under way, carried out as an ordinary one from now on."""
        ...


class CommandRelay:
    """The near end of a session's relayed commands."""

    def __init__(self, owner: RelayOwner, session: TargetSession, budget: ByteBudget) -> None:
        self._owner = owner
        self._session = session
        self._budget = budget
        self._parameters: Parameters | None = None
        self._most_read = self._most_written = 0

    def take(self) -> None:
        """Relay the plain commands that come next in the received bytes, up to the first other PDU."""
        session, owner, reader = self._session, self._owner, self._session.reader
        if not reader.at_whole_pdu or session.held or not owner.takes_commands:
            return
        if session.parameters is not self._parameters:
            self._take_limits(session.parameters)
        view, at, length = reader.view, reader.at, reader.length
        numbers, relayed = session.numbers, session.relayed
        lun, far = -1, None
        while (begin := at + HEADER_LENGTH) <= length:
            first, flags, _, _, written, field, tag, expected, cmd_sn, _, cdb = COMMAND.unpack_from(view, at)
            if first != _PLAIN_FIRST or cdb[0] not in PLAIN_OPCODES:
                break
            if field != lun:
                if far is not None:
                    far.flush_soon()
                lun, far = field, owner.far_end(field)
            if far is None or far.session.room <= 0 or session.in_use(tag):
                break
            end = begin + written
            kind = flags & _KIND
            if kind == _PLAIN_READ and not written and 0 < expected <= self._most_read:
                read_length, data = expected, b""
            elif (
                kind == _PLAIN_WRITE
                and written == expected
                and 0 < written <= min(self._most_written, far.session.immediate_length)
                and not written & 3
                and end <= length
            ):
                read_length, data = 0, bytes(view[begin:end])
            else:
                break
            if not self._reserve(read_length, written):
                break
            if not numbers.take(cmd_sn):
                self._give_back(read_length, written)
                break
            numbers.open_commands += 1
            command = RelayedCommand(self, far, tag, field, kind, cdb, data, read_length)
            relayed[tag] = command
            far.session.relay(command, expected)
            far.begun()
            at = end
        reader.at = at
        if far is not None:
            far.flush_soon()

    def answer(self, command: RelayedCommand, data: Buffer) -> None:
        """Pass on the plain answer of a command, with the data that were read."""
        session = self._session
        del session.relayed[command.tag]
        session.numbers.open_commands -= 1
        stat_sn, exp_cmd_sn, max_cmd_sn = session.numbers.next_status()
        if command.read_length:
            header = whole_data_in(command.tag, len(data), stat_sn, exp_cmd_sn, max_cmd_sn)
            session.send_buffers([header, data])
        else:
            session.send_buffers([good_response(command.tag, stat_sn, exp_cmd_sn, max_cmd_sn)])
            session.transfers.give_back(len(command.data), len(command.data))
        command.far.ended()
        self._owner.relayed_ended(command.read_length)

    def ordinary(self, command: RelayedCommand) -> None:
        """Make a command an ordinary one, in both sessions."""
        session = self._session
        del session.relayed[command.tag]
        limits = session.config
        task = TargetTask(command.pdu(), session.parameters, limits.max_data_out, limits.max_data_in)
        task.started = True
        task.reserved = task.unsolicited = task.requested
        session.tasks[task.tag] = task
        event = CommandReceived(task.tag, decode_lun(task.lun), task.command())
        self._owner.adopt(event, lambda answered: command.far.ordinary(command, event.command, answered))

    def _take_limits(self, parameters: Parameters) -> None:
        """Compute how many bytes a plain command may have, so that one PDU has all of them."""
        config = self._session.config
        self._parameters = parameters
        self._most_read = min(
            MOST_DATA,
            parameters.max_send_data_segment_length,
            parameters.max_burst_length,
            config.max_data_in,
        )
        self._most_written = min(
            MOST_DATA,
            parameters.max_recv_data_segment_length,
            parameters.first_burst_length if parameters.immediate_data else 0,
            config.max_data_out,
        )

    def _reserve(self, read: int, written: int) -> bool:
        return self._session.transfers.reserve(written) if written else self._budget.take(read)

    def _give_back(self, read: int, written: int) -> None:
        if written:
            self._session.transfers.give_back(written, written)
        else:
            self._budget.give(read)
