"""A journal without a file, for an agent that may forget everything when its process ends: demo and tests."""

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


class MemoryJournal:
    """A journal that keeps everything in the memory of this process, and removes no old handovers."""

    def __init__(self) -> None:
        self._guests: dict[str, GuestRecord] = {}
        self._devices: dict[tuple[str, str], DeviceRecord] = {}
        self._steps: list[HandoverRecord] = []
        self._closed = False

    @property
    def failed(self) -> JournalError | None:
        """None, because memory does not fail."""
        return None

    def load(self) -> JournalContents:
        """Everything that is kept."""
        return contents_of(list(self._guests.values()), list(self._devices.values()), self._steps)

    def steps(self, handover_id: str) -> tuple[HandoverRecord, ...]:
        """The states that a handover went through, oldest first; empty when the handover is not known."""
        return tuple(step for step in self._steps if step.handover_id == handover_id)

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

    async def note(self, *records: Record) -> None:
        """Keep records; see `Journal.note`. Raises as `put`."""
        await self.put(*records)

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
        """Refuse every later record."""
        self._closed = True

    def _refuse_closed(self) -> None:
        if self._closed:
            raise JournalError(Path("(memory)"), "it is closed", "open it again")
