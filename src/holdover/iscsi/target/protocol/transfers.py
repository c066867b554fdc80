"""Decides which commands of a target session may have Data-Out, within the memory of session and target."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.responses import ReadyToTransfer
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.protocol.numbers import TargetNumbers
from holdover.iscsi.target.protocol.task import TargetTask
from holdover.scsi.command import Response
from holdover.scsi.status import Status

_TASK_SET_FULL = Response(Status.TASK_SET_FULL)


class TargetTransfers:
    """The R2Ts of a session. A command asks for its first solicited data when there is room for all of its
    data; until then it waits behind earlier commands. Unsolicited data cannot wait: if there is no room for
    it, its command ends in TASK SET FULL.

    Attributes:
        buffered: The bytes that are reserved for data.
        waiting: The commands for which there is no room yet.
    """

    def __init__(self, numbers: TargetNumbers, max_buffered: int, budget: ByteBudget) -> None:
        self.buffered = 0
        self._unsolicited = 0
        self._numbers = numbers
        self._max_buffered = max_buffered
        self._budget = budget
        self.waiting: deque[TargetTask] = deque()
        self._target_tag = 0

    def admit(self, task: TargetTask) -> None:
        """Reserve room for the unsolicited data of a new command."""
        if task.failure is not None:
            return
        if self.reserve(task.requested):
            task.reserved = task.unsolicited = task.requested
        else:
            task.fail(_TASK_SET_FULL)

    def reserve(self, count: int) -> bool:
        """Reserve room for unsolicited data; returns False if there is none."""
        if not self._budget.take_unsolicited(count):
            return False
        self.buffered += count
        self._unsolicited += count
        return True

    def ask(self, task: TargetTask, parameters: Parameters) -> Iterator[ReadyToTransfer]:
        """The R2Ts to send now for a command that needs more data."""
        if task in self.waiting:
            return
        if task.reserved == task.write_length or self._reserve(task):
            yield from self._requests(task, parameters)
        else:
            self.waiting.append(task)

    def release(self, task: TargetTask) -> None:
        """Note that a command is over."""
        self.give_back(task.reserved, task.unsolicited)
        task.reserved = task.unsolicited = 0
        if self.waiting and task in self.waiting:
            self.waiting.remove(task)

    def serve_waiting(self, parameters: Parameters) -> Iterator[ReadyToTransfer]:
        """The R2Ts of commands for which there is room now."""
        while self.waiting and self._reserve(self.waiting[0]):
            yield from self._requests(self.waiting.popleft(), parameters)

    def new_tag(self) -> int:
        """A Target Transfer Tag that is not in use."""
        self._target_tag = (self._target_tag + 1) & 0x7FFF_FFFF
        return self._target_tag

    def clear(self) -> None:
        """Note that the session is over, and that its commands have stopped."""
        self.waiting.clear()
        self.give_back(self.buffered, self._unsolicited)

    def give_back(self, count: int, unsolicited: int) -> None:
        """Give back room, of which ``unsolicited`` was for unsolicited data."""
        if count:
            self.buffered -= count
            self._unsolicited -= unsolicited
            self._budget.give(count, unsolicited)

    def _reserve(self, task: TargetTask) -> bool:
        missing = task.write_length - task.reserved
        solicited = self.buffered - self._unsolicited
        if solicited and solicited + missing > self._max_buffered:
            return False
        if not self._budget.take(missing):
            return False
        task.reserved = task.write_length
        self.buffered += missing
        return True

    def _requests(self, task: TargetTask, parameters: Parameters) -> Iterator[ReadyToTransfer]:
        numbers = self._numbers
        while (
            task.requested < task.write_length
            and task.open_sequences < parameters.max_outstanding_r2t
            and not task.damaged
        ):
            target_tag = self.new_tag()
            length = min(parameters.max_burst_length, task.write_length - task.requested)
            offset = task.request(target_tag, length)
            yield ReadyToTransfer(
                task.tag,
                target_tag,
                task.lun,
                task.r2t_sn,
                offset,
                length,
                numbers.stat_sn,
                numbers.exp_cmd_sn,
                numbers.max_cmd_sn,
            )
            task.r2t_sn += 1
