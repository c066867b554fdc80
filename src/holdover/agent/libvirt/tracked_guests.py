"""Keeps the list of tracked guests, by which the lock server knows for which guests it needs the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from holdover.config.agent_file import AgentConfig
from holdover.guest.scsi_block import BlockState
from holdover.journal.journal import JournalError, JournalLike
from holdover.journal.records import DeviceRecord, HandoverRecord, JournalContents, Key, Record
from holdover.lock_server.tracked_list import FILE_NAME, TrackedGuest, TrackedList, read_list, write_list

log = structlog.get_logger()

_REFRESH_SECONDS = 10.0
"""The seconds from one look at this host's guests, and question to its peers, to the next."""


class TrackedGuests:
    """The list of one host: its own guests, and those of which its peers have said that they track them.

    Attributes:
        file: The file with the list.
    """

    def __init__(self, config: AgentConfig) -> None:
        """``config`` says where the agent's files are, and the name of the host."""
        self.file = file = Path(config.state_dir) / FILE_NAME
        self._host = config.name
        self._saving = asyncio.Lock()
        found = read_list(file)
        self._written = found is not None
        self._guests = {} if found is None else dict(found.guests)

    def has(self, guest: str) -> bool:
        """Whether a guest of this host is on the list."""
        found = self._guests.get(guest)
        return found is not None and found.host == self._host

    async def add(self, *guests: str) -> None:
        """Put guests of this host on the list; they are on disk when this returns.

        Raises:
            OSError: The list cannot be written.
        """
        async with self._saving:
            fresh = {guest: TrackedGuest("", self._host) for guest in guests if not self.has(guest)}
            if fresh:
                await self._write(self._guests | fresh)

    async def replace(
        self, own: Callable[[], Mapping[str, str]], others: Mapping[str, Mapping[str, str] | None]
    ) -> None:
        """Write the list anew: this host's guests, from ``own``, and those of each peer, with their UUIDs.

        What a peer that cannot be asked (None) said before stays on the list. Raises as `add`.
        """
        async with self._saving:
            guests: dict[str, TrackedGuest] = {}
            for peer, said in others.items():
                if said is None:
                    guests |= {name: each for name, each in self._guests.items() if each.host == peer}
                else:
                    guests |= {name: TrackedGuest(uuid, peer) for name, uuid in said.items()}
            guests |= {name: TrackedGuest(uuid, self._host) for name, uuid in own().items()}
            if guests != self._guests or not self._written:
                await self._write(guests)

    async def _write(self, guests: dict[str, TrackedGuest]) -> None:
        # a write goes on in its thread when its caller waits no more
        await asyncio.shield(asyncio.to_thread(write_list, self.file, TrackedList(guests)))
        self._guests, self._written = guests, True


class ListingJournal:
    """A journal that puts a guest on the list before it has the guest's first registration on record."""

    def __init__(self, journal: JournalLike, tracked: TrackedGuests) -> None:
        self._journal = journal
        self._tracked = tracked

    def load(self) -> JournalContents:
        """As `Journal.load`."""
        return self._journal.load()

    def steps(self, handover_id: str) -> tuple[HandoverRecord, ...]:
        """As `Journal.steps`."""
        return self._journal.steps(handover_id)

    @property
    def failed(self) -> JournalError | None:
        """As `Journal.failed`."""
        return self._journal.failed

    async def put(self, *records: Record) -> None:
        """As `Journal.put`; a list that cannot be written is an error of the journal."""
        await self._track(records)
        await self._journal.put(*records)

    async def note(self, *records: Record) -> None:
        """As `Journal.note`, and as `put`."""
        await self._track(records)
        await self._journal.note(*records)

    async def _track(self, records: tuple[Record, ...]) -> None:
        fresh = [
            each.guest
            for each in records
            if isinstance(each, DeviceRecord) and not self._tracked.has(each.guest) and _tracks(each)
        ]
        if fresh:
            try:
                await self._tracked.add(*fresh)
            except OSError as error:
                raise JournalError(
                    self._tracked.file,
                    f"cannot be written: {error.strerror}",
                    "free space on the disk, or repair it",
                ) from error

    async def forget(self, *keys: Key) -> None:
        """As `Journal.forget`."""
        await self._journal.forget(*keys)

    async def close(self) -> None:
        """As `Journal.close`."""
        await self._journal.close()


def _tracks(record: DeviceRecord) -> bool:
    try:
        return bool(msgspec.json.decode(record.body, type=BlockState).tracked.key)
    except (msgspec.DecodeError, ValueError):
        return True


class Guests(Protocol):
    """What is known of tracked guests, here and on other hosts."""

    def tracked(self) -> Mapping[str, str]:
        """The guests that this host tracks, with their UUIDs."""
        ...

    def peers(self) -> tuple[str, ...]:
        """The names of the peers."""
        ...

    async def tracked_elsewhere(self) -> Mapping[str, Mapping[str, str] | None]:
        """What each peer tracks; None for a peer that cannot be asked."""
        ...


class Refreshing:
    """The task that refreshes the list."""

    def __init__(self, tracked: TrackedGuests, guests: Guests) -> None:
        self._tracked = tracked
        self._guests = guests
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Refresh now, and from time to time."""
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        # Peers that start at the same time cannot be asked yet; what they have said before stays on the list.
        others: Mapping[str, Mapping[str, str] | None] = dict.fromkeys(self._guests.peers())
        while True:
            try:
                await self._tracked.replace(self._guests.tracked, others)
            except OSError as error:
                log.warning("The list of tracked guests cannot be written.", reason=str(error))
            await asyncio.sleep(_REFRESH_SECONDS)
            others = await self._guests.tracked_elsewhere()

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
