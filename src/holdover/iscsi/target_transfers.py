"""Which commands of a target session may ask for their Data-Out, within the memory of the session."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.responses import ReadyToTransfer
from holdover.iscsi.target_numbers import TargetNumbers
from holdover.iscsi.target_task import TargetTask

__all__ = ["TargetTransfers"]


class TargetTransfers:
    """The R2Ts of a session. A command asks for the first of its solicited data when there is room for all
    of them; until then it waits behind those that wait already.

    Attributes:
        buffered: Bytes that are set aside for solicited data.
        waiting: Commands for which there is no room yet.
    """

    def __init__(self, numbers: TargetNumbers, max_buffered: int) -> None:
        self.buffered = 0
        self._numbers = numbers
        self._max_buffered = max_buffered
        self.waiting: deque[TargetTask] = deque()
        self._target_tag = 0

    def ask(self, task: TargetTask, parameters: Parameters) -> Iterator[ReadyToTransfer]:
        """The R2Ts that are due for a command which needs more data."""
        if task in self.waiting:
            return
        if task.reserved or self._reserve(task):
            yield from self._requests(task, parameters)
        else:
            self.waiting.append(task)

    def release(self, task: TargetTask) -> None:
        """A command is over."""
        self.buffered -= task.reserved
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
        """The session is over."""
        self.waiting.clear()

    def _reserve(self, task: TargetTask) -> bool:
        missing = task.write_length - task.received
        if self.buffered and self.buffered + missing > self._max_buffered:
            return False
        task.reserved = missing
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
