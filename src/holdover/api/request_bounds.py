"""Limits of a request: how long it may be, and how much time it may take. Pure.

The parser gets what a client sends in pieces, and only as long as the header is not too long. A parser that
assembles an endless header needs more time for every piece. The agent's event loop stands still meanwhile,
and the guests need that loop too.
"""

from __future__ import annotations

from enum import Enum, auto

HEADER_BYTES = 16 << 10
"""For the request line and all header fields together; those of our own commands have 300 bytes."""
HEADER_SECONDS = 10.0
"""From the beginning of a connection, or from the first byte of a request, to the end of the header."""
REQUEST_SECONDS = 60.0
"""From the first byte of a request to its last."""
LARGEST_BODY = 4 << 20
"""In bytes; enough for a message about a guest with some thousands of LUNs."""
_PIECE = 4 << 10


class _Phase(Enum):
    NEW = auto()
    """The connection has just begun; no request has come."""
    IDLE = auto()
    """A request has ended. The next one may come much later, even after a day."""
    HEADER = auto()
    BODY = auto()


class RequestBounds:
    """The progress of the request on a connection. Times are those of an event loop."""

    def __init__(self, now: float) -> None:
        self._phase = _Phase.NEW
        self._since = now
        self._header = 0

    @property
    def next_piece(self) -> int:
        """The greatest number of bytes that the parser may get now; 0 if the header is too long."""
        if self._phase is _Phase.HEADER:
            return min(_PIECE, HEADER_BYTES - self._header)
        return _PIECE

    def received(self, count: int, now: float) -> None:
        """Note that ``count`` bytes are about to be parsed."""
        if self._phase in (_Phase.NEW, _Phase.IDLE):
            self._phase, self._since, self._header = _Phase.HEADER, now, 0
        if self._phase is _Phase.HEADER:
            self._header += count

    def header_began(self, now: float) -> None:
        """Note that the parser has seen the beginning of a request, maybe in a piece that ended another."""
        if self._phase is _Phase.IDLE:
            self._phase, self._since, self._header = _Phase.HEADER, now, 0

    def header_ended(self) -> None:
        """Note that the parser has seen the end of a header."""
        self._phase = _Phase.BODY

    def request_ended(self) -> None:
        """Note that the parser has seen the end of a request."""
        self._phase = _Phase.IDLE

    @property
    def deadline(self) -> float | None:
        """The time by which what is awaited must have come; None if nothing is awaited."""
        if self._phase is _Phase.IDLE:
            return None
        return self._since + (REQUEST_SECONDS if self._phase is _Phase.BODY else HEADER_SECONDS)
