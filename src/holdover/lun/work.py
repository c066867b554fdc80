"""What is left to do on the medium when a command has been found right.

Work decides nothing: it may run in the event loop or in a thread, and turns the medium's errors into sense
data. Whoever runs it keeps to `exclusive`.
"""

from __future__ import annotations

from typing import Protocol

from holdover.lun.medium import Medium
from holdover.scsi.command import Response

__all__ = ["INLINE_LIMIT", "MediumWork", "Span"]

INLINE_LIMIT = 256 * 1024
"""Bytes that a page cache copies in less time than a thread needs to wake up."""

Span = tuple[int, int]
"""The first byte, and the byte after the last."""


class MediumWork(Protocol):
    """One command's work."""

    @property
    def slow(self) -> bool:
        """Whether it may wait for a disk or copy a lot, and so belongs in a thread."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether it reads and writes as one: no other work on a part of its span may run beside it."""
        ...

    @property
    def span(self) -> Span:
        """What of the medium it may touch."""
        ...

    def run(self, medium: Medium) -> Response:
        """Do it. Never raises for what a medium does."""
        ...
