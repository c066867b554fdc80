"""The log of a program: each event is a sentence with fields, in one of three forms.

``console`` is for people at a terminal, ``json`` for programs (one object in each line), ``journald`` for
systemd's journal, whose fields then are those of the event: ``journalctl HOLDOVER_GUEST=db1``.
"""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from holdover.runbook.lookup import name_topic
from holdover.service.journald import PRIORITIES, JournalSocket, is_journal
from holdover.service.late_lines import LateLines, time_in_words


class LogFormat(StrEnum):
    """The form of the log."""

    AUTO = "auto"
    """`JOURNALD` if the standard error goes to the journal, else `CONSOLE`."""
    CONSOLE = "console"
    JSON = "json"
    JOURNALD = "journald"


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """The number that `logging` gives this level."""
        return logging.getLevelNamesMapping()[self.value.upper()]


def configure(
    name: str,
    level: LogLevel,
    form: LogFormat,
    environment: Mapping[str, str],
    stream: TextIO | None = None,
) -> None:
    """Set how this process logs; ``name`` is the program's name in the journal.

    ``stream`` is the standard error unless given. What other libraries log comes in the same form.
    """
    stream = sys.stderr if stream is None else stream
    journal = _journal(form, environment, stream)
    if journal is not None:
        form_of: list[Processor] = [structlog.processors.format_exc_info, _ToJournal(name, journal, stream)]
    elif form is LogFormat.JSON:
        form_of = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    else:
        # The default formatter of exceptions prints local variables, and so secrets.
        plain = structlog.dev.plain_traceback
        form_of = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    form_of = [time_in_words, structlog.processors.add_log_level, name_topic, *form_of]
    late = LateLines(form_of)
    atexit.register(late.write)
    structlog.configure(
        processors=[late, *form_of],
        wrapper_class=structlog.make_filtering_bound_logger(level.number),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    logging.root.handlers = [_Forward()]
    logging.root.setLevel(max(level.number, logging.WARNING))


def write_late_lines() -> None:
    """Write the lines that wait; for a process that ends without Python's own end."""
    for processor in structlog.get_config()["processors"]:
        if isinstance(processor, LateLines):
            processor.write()


def _journal(form: LogFormat, environment: Mapping[str, str], stream: TextIO) -> JournalSocket | None:
    wanted = form is LogFormat.JOURNALD or (form is LogFormat.AUTO and is_journal(stream, environment))
    if not wanted:
        return None
    try:
        return JournalSocket()
    except OSError:
        return None  # the console's form is as good as any that is read


class _ToJournal:
    """Sends events to systemd-journald; what it does not take goes to the stream."""

    def __init__(self, name: str, journal: JournalSocket, stream: TextIO) -> None:
        self._name = name
        self._journal = journal
        self._stream = stream

    def __call__(self, _logger: Any, method: str, event: EventDict) -> str:
        event = dict(event)
        event.pop("timestamp", None)
        level = str(event.pop("level", method))
        sentence = str(event.pop("event", ""))
        trace = event.pop("exception", None)
        text = " ".join([sentence, *(f"{key}={value}" for key, value in event.items() if value != "")])
        entry = {
            "MESSAGE": text if trace is None else f"{text}\n{trace}",
            "PRIORITY": str(PRIORITIES.get(level, 6)),
            "SYSLOG_IDENTIFIER": self._name,
            **{f"HOLDOVER_{key.upper()}": str(value) for key, value in event.items()},
        }
        if not self._journal.send(entry):
            print(entry["MESSAGE"], file=self._stream, flush=True)
        raise structlog.DropEvent


class _Forward(logging.Handler):
    """Gives what other libraries log to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )
