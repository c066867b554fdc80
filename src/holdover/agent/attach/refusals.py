"""Refusals of helper clients: how soon they are answered, and how many have a line in the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from holdover.admission.token_buckets import TokenBuckets
from holdover.helper.connection import Peer

log = structlog.get_logger()

_ANSWERS: Final = 64
_ANSWER_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 30.0
_LINES: Final = 64
_LINE_SECONDS: Final = 10.0


class CommandRefusals:
    """The refusals of all helper sockets.

    Finding out that a process is no guest takes time of the event loop. A client sends its next command
    only after the answer to the last one, so late answers limit how often that happens.

    Attributes:
        count: How many commands were refused.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._clock = clock
        self._answers = TokenBuckets(_ANSWERS, _ANSWER_SECONDS)
        self._lines = TokenBuckets(_LINES, _LINE_SECONDS)

    def wait(self, uid: int) -> float:
        """The seconds after which one more refused command of that user may be answered."""
        return self._answers.reserve(uid, self._clock(), _LONGEST_SECONDS)

    def tell(self, event: str, peer: Peer, why: str) -> None:
        """Count and log a refusal; no line if that user's refusals have filled many lines lately."""
        self.count += 1
        if not self._lines.take(peer.uid, self._clock()):
            log.warning(event, pid=peer.pid, reason=why)
