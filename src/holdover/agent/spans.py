"""What took how long in a handover: recorded always, as it costs next to nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from holdover.agent.api import Span
from holdover.handover.steps import LostAnswer, Steps, T
from holdover.scsi.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.command import Command
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import InServiceAction, OperationCode, OutServiceAction

__all__ = ["Spans"]

_MOST = 100_000
"""Spans of one handover, which may go on for long while something cannot be reached."""


class Spans:
    """The spans of one handover on one host."""

    def __init__(self, host: str) -> None:
        self._host = host
        # perf_counter for the differences, the clock once for the place on the axis
        self._offset = time.time() - time.perf_counter()
        self._recorded: list[tuple[str | bytes, str, float, float]] = []
        self._state: tuple[str, float] | None = None

    @contextmanager
    def span(self, name: str, lun: str = "") -> Iterator[None]:
        """Record how long the body takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._record(name, lun, began)

    def steps(self, steps: Steps[T], lun: str) -> Steps[T]:
        """The same steps, with each round trip recorded."""
        try:
            command = next(steps)
            while True:
                began = time.perf_counter()
                try:
                    response = yield command
                except LostAnswer as lost:
                    self._record(command.cdb, lun, began)
                    command = steps.throw(lost)
                else:
                    self._record(command.cdb, lun, began)
                    command = steps.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    def _record(self, name: str | bytes, lun: str, began: float) -> None:
        if len(self._recorded) < _MOST:
            self._recorded.append((name, lun, began, time.perf_counter()))

    def state(self, name: str) -> None:
        """The handover has come to the state ``name``: record how long it was in the one before."""
        if self._state is not None and self._state[0] != name:
            self._record(f"state {self._state[0]}", "", self._state[1])
        if self._state is None or self._state[0] != name:
            self._state = name, time.perf_counter()

    def mark(self) -> int:
        """How many there are, for `forget_since`."""
        return len(self._recorded)

    def forget_since(self, mark: int) -> None:
        """Something was looked at again, and nothing had changed: that is not worth keeping."""
        del self._recorded[mark:]

    def so_far(self) -> tuple[Span, ...]:
        """All that has ended, in the order of their ends."""
        return tuple(
            Span(
                name=name if isinstance(name, str) else _name_of(name),
                host=self._host,
                lun=lun,
                began=began + self._offset,
                ended=ended + self._offset,
            )
            for name, lun, began, ended in self._recorded
        )


@lru_cache(maxsize=64)
def _name_of(cdb: bytes) -> str:
    command = Command(cdb)
    try:
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            return OutServiceAction(PersistentReserveOut.decode(cdb).service_action).name.replace("_", " ")
        if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
            return InServiceAction(PersistentReserveIn.decode(cdb).service_action).name.replace("_", " ")
        return OperationCode(command.opcode).name.replace("_", " ")
    except (DecodeError, ValueError):
        return f"command {command.opcode:#04x}"
