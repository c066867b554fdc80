"""The commands that are relayed to one session with a target, and their plain answers (see
`holdover.iscsi.relayed`); pure.
"""

from __future__ import annotations

from typing import Protocol

from holdover.iscsi.header import HEADER, HEADER_LENGTH, Buffer
from holdover.iscsi.initiator.numbers import InitiatorNumbers
from holdover.iscsi.initiator.task import InitiatorTask
from holdover.iscsi.pdu import PduReader
from holdover.iscsi.relayed import RelayedCommand, RelayedCommands
from holdover.iscsi.requests import whole_command
from holdover.iscsi.responses import is_good_response, is_whole_data_in
from holdover.scsi.command import Command


class RelayingSession(Protocol):
    """The session of an `AnswerRelay`.

    Attributes:
        numbers, reader: Its serial numbers, and its received bytes.
        tasks: The commands of its own, by tag.
    """

    numbers: InitiatorNumbers
    reader: PduReader
    tasks: dict[int, InitiatorTask]

    def new_tag(self) -> int:
        """A tag that nothing has."""
        ...

    def send_waiting(self) -> None:
        """Send the commands that wait, as far as there is room."""
        ...

    def send_buffers(self, buffers: list[Buffer]) -> None:
        """Send the buffers of a PDU."""
        ...


class AnswerRelay:
    """The far end of relayed commands (`holdover.iscsi.relayed.FarSession`).

    Attributes:
        commands: The relayed commands by tag.
        immediate_length: The most data that may go with a command.
    """

    def __init__(self, session: RelayingSession) -> None:
        self.commands = RelayedCommands()
        self.immediate_length = 0
        self._session = session
        self._numbers = session.numbers

    @property
    def room(self) -> int:
        """How many commands the session can send now."""
        return self._numbers.room

    def relay(self, command: RelayedCommand, expected: int) -> None:
        """Send a relayed command. There must be `room` for it, and no digests.

        Args:
            command: The command; this sets its tag and its CmdSN.
            expected: Its Expected Data Transfer Length.
        """
        session, numbers, data = self._session, self._numbers, command.data
        command.far_tag = tag = session.new_tag()
        command.cmd_sn = cmd_sn = numbers.next_cmd_sn()
        self.commands[tag] = command
        lun, stat_sn = command.far.lun, numbers.exp_stat_sn
        header = whole_command(command.flags, len(data), lun, tag, expected, cmd_sn, stat_sn, command.cdb)
        session.send_buffers([header, data] if data else [header])

    def make_ordinary(self, relayed: RelayedCommand, command: Command) -> None:
        """Make a relayed command one of the session's own."""
        del self.commands[relayed.far_tag]
        task = InitiatorTask(relayed.far_tag, relayed.far.lun, command)
        task.cmd_sn, task.attempts = relayed.cmd_sn, 1
        self._session.tasks[task.tag] = task

    def take(self) -> None:
        """Take the plain answers that come next in the received bytes, up to the first other PDU."""
        reader, commands = self._session.reader, self.commands
        if not reader.at_whole_pdu:
            return
        view, at, length = reader.view, reader.at, reader.length
        while (begin := at + HEADER_LENGTH) <= length:
            words = HEADER.unpack_from(view, at)
            if (command := commands.get(words[6])) is None:
                break
            data_length = command.read_length
            end = begin + (data_length + 3 & ~3)
            plain = is_whole_data_in(words) if data_length else is_good_response(words)
            if not plain or words[4] != data_length or end > length or data_length > reader.max_data_length:
                break
            if self._numbers.note_status(words[8], words[9], words[10]):
                self._session.send_waiting()
            del commands[words[6]]
            command.near.answer(command, bytes(view[begin : begin + data_length]) if data_length else b"")
            at = end
        reader.at = at
