"""The work on the medium that a valid command needs.

Work decides nothing: it may run in the event loop or in a thread, and it turns the medium's errors into sense
data. The code that runs work must obey `exclusive`.
"""

from __future__ import annotations

from typing import Protocol

from holdover.lun.medium import Medium
from holdover.scsi.command import Response

INLINE_LIMIT = 256 * 1024
"""The bytes that a page cache copies in less time than a thread needs to wake up."""

Span = tuple[int, int]
"""The first byte, and the byte after the last."""


class MediumWork(Protocol):
    """The work of one command."""

    @property
    def slow(self) -> bool:
        """Whether the work may wait for a disk or copy much data, and so belongs in a thread."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether the work reads and writes in one step: no other work may touch its span meanwhile."""
        ...

    @property
    def span(self) -> Span:
        """The range of the medium that the work may touch."""
        ...

    def run(self, medium: Medium) -> Response:
        """Do the work. Never raises for errors of the medium."""
        ...
