"""How long each part of a handover takes: always recorded, because recording costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from holdover.api.documents import Span
from holdover.reservations.driver import StepRun
from holdover.reservations.steps import Steps, T
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.errors import DecodeError
from holdover.scsi.path import AnswerLost

_MOST = 100_000
"""The most spans of one handover, which may last long while something cannot be reached."""


class Spans:
    """The spans of one handover on one host."""

    def __init__(self, host: str, clock: Callable[[], float], stopwatch: Callable[[], float]) -> None:
        self._host = host
        # the stopwatch measures durations; the clock, read once, gives their place in time
        self._now = stopwatch
        self._offset = clock() - stopwatch()
        self._recorded: list[tuple[str | bytes, str, float, float]] = []
        self._state: tuple[str, float] | None = None

    @contextmanager
    def span(self, name: str, lun: str = "") -> Iterator[None]:
        """Record how long the body takes."""
        began = self._now()
        try:
            yield
        finally:
            self._record(name, lun, began)

    def steps(self, steps: Steps[T], lun: str, asks: Callable[[], None]) -> Steps[T]:
        """The same steps, with each round trip recorded. ``asks`` is called before the first command."""
        run = StepRun(steps)
        if run.request is not None:
            asks()
        while run.request is not None:
            command, began = run.request, self._now()
            try:
                response = yield command
            except AnswerLost as lost:
                self._record(command.cdb, lun, began)
                run.fail(lost)
            else:
                self._record(command.cdb, lun, began)
                run.answer(response)
        return run.result

    def _record(self, name: str | bytes, lun: str, began: float) -> None:
        if len(self._recorded) < _MOST:
            self._recorded.append((name, lun, began, self._now()))

    def state(self, name: str) -> None:
        """The handover has entered the state ``name``: record how long the state before it lasted."""
        if self._state is not None and self._state[0] != name:
            self._record(f"state {self._state[0]}", "", self._state[1])
        if self._state is None or self._state[0] != name:
            self._state = name, self._now()

    def mark(self) -> int:
        """The number of spans so far, for `forget_since`."""
        return len(self._recorded)

    def forget_since(self, mark: int) -> None:
        """Drop the spans of a recheck that found no change: they are not worth keeping."""
        del self._recorded[mark:]

    def so_far(self) -> tuple[Span, ...]:
        """All spans that have ended, in the order of their ends."""
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
