"""A journal without a file, for an agent that may forget with its process: the demo, and tests."""

from __future__ import annotations

from pathlib import Path

from holdover.journal.journal import JournalError
from holdover.journal.records import (
    DeviceRecord,
    GuestRecord,
    HandoverRecord,
    JournalContents,
    Key,
    Record,
    contents_of,
)

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """Keeps what `Journal` keeps, in this process alone and all of it."""

    def __init__(self) -> None:
        self._guests: dict[str, GuestRecord] = {}
        self._devices: dict[tuple[str, str], DeviceRecord] = {}
        self._steps: list[HandoverRecord] = []
        self._closed = False

    @property
    def failed(self) -> JournalError | None:
        """None: memory does not fail."""
        return None

    def load(self) -> JournalContents:
        """Everything that is kept."""
        return contents_of(list(self._guests.values()), list(self._devices.values()), self._steps)

    def steps(self, handover: str) -> tuple[HandoverRecord, ...]:
        """The states that a handover went through, oldest first; empty for one that is not known."""
        return tuple(step for step in self._steps if step.handover == handover)

    async def put(self, *records: Record) -> None:
        """Keep records; see `Journal.put`.

        Raises:
            JournalError: The journal is closed.
        """
        self._refuse_closed()
        for record in records:
            match record:
                case GuestRecord():
                    self._guests[record.name] = record
                case DeviceRecord():
                    self._devices[record.guest, record.designator] = record
                case HandoverRecord():
                    self._steps.append(record)

    async def forget(self, *keys: Key) -> None:
        """Remove guests with their devices, or single devices; see `Journal.forget`.

        Raises:
            JournalError: The journal is closed.
        """
        self._refuse_closed()
        for key in keys:
            if isinstance(key, tuple):
                self._devices.pop(key, None)
                continue
            self._guests.pop(key, None)
            self._devices = {place: device for place, device in self._devices.items() if place[0] != key}

    async def close(self) -> None:
        """Take nothing more."""
        self._closed = True

    def _refuse_closed(self) -> None:
        if self._closed:
            raise JournalError(Path("(memory)"), "it is closed", "open it anew")
