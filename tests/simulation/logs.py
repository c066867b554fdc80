"""What agents log during a run: in the transcript, with the name of the agent; errors not foreseen end it."""

from __future__ import annotations

import logging
from asyncio import events
from collections.abc import MutableMapping
from typing import Any, Self

import structlog

from tests.simulation.transcript import Transcript

_NOT_SHOWN = frozenset({"exc_info"})


class Logs:
    """A context in which structlog writes to a transcript."""

    def __init__(
        self, transcript: Transcript, unforeseen: list[tuple[str, BaseException | None, str]]
    ) -> None:
        self._unforeseen = unforeseen
        self._transcript = transcript
        self._before: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._before = structlog.get_config()
        level = logging.INFO if self._transcript.on else logging.ERROR
        structlog.configure(
            processors=[self._take],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=lambda: None,
            cache_logger_on_first_use=False,
        )
        return self

    def __exit__(self, *_: object) -> None:
        structlog.configure(**self._before)

    def _take(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        process = events._get_running_loop()
        name = getattr(process, "name", "")
        error = event.get("exc_info")
        said = ", ".join(
            f"{key}={value}" for key, value in event.items() if key not in ("event", *_NOT_SHOWN)
        )
        self._transcript.line(name, f"log: {event['event']} ({said})" if said else f"log: {event['event']}")
        if isinstance(error, BaseException) and not isinstance(error, MemoryError):
            self._unforeseen.append((name, error, event["event"]))
        raise structlog.DropEvent
