"""Lines of the log that are written a moment after they were logged, in the same order.

A guest stands still while a handover commits, and to form and write a line takes a fifth of a millisecond
then, of which the guest's QEMU has more need. So a line that only informs waits for a moment.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import NoneType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

LATE_SECONDS = 0.03
"""How long a line waits: a guest with few LUNs runs again by then."""

MOST = 32
"""The most lines that wait."""

_INFORMS = frozenset({"debug", "info"})
_PLAIN = (str, int, float, NoneType)
"""The values that nobody can change while a line waits."""


@dataclass(frozen=True, slots=True)
class _Line:
    logger: Any
    method: str
    event: EventDict


class LateLines:
    """The first processor of a log: keeps the lines that can wait, and gives the others the time alone.

    A line can wait if it is no warning or error, and was logged inside an event loop. Before any other line,
    all those that wait are written.
    """

    def __init__(self, form: Sequence[Processor]) -> None:
        """``form`` are the processors after this one."""
        self._form = form
        self._lock = threading.RLock()
        self._lines: list[_Line] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        event["timestamp"] = time.time()
        loop = _running_loop() if method in _INFORMS else None
        if loop is None or len(self._lines) >= MOST or not _can_wait(event):
            self.write()
            return event
        with self._lock:
            self._lines.append(_Line(logger, method, event))
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(LATE_SECONDS, self._is_time)
        raise structlog.DropEvent

    def _is_time(self) -> None:
        self._loop = None
        self.write()

    def write(self) -> None:
        """Write all lines that wait."""
        with self._lock:
            lines, self._lines = self._lines, []
            for line in lines:
                self._write(line)

    def _write(self, line: _Line) -> None:
        event: Any = line.event
        try:
            for processor in self._form:
                event = processor(line.logger, line.method, event)
        except structlog.DropEvent:
            return
        getattr(line.logger, line.method)(event)


def time_in_words(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write the time of a line as ISO 8601 (a processor of structlog)."""
    event["timestamp"] = datetime.fromtimestamp(event["timestamp"], UTC).isoformat().replace("+00:00", "Z")
    return event


def _can_wait(event: EventDict) -> bool:
    return "exc_info" not in event and all(isinstance(value, _PLAIN) for value in event.values())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
