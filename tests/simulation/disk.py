"""The journal of a simulated agent, on a disk that loses what was not synced when the host's power fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec

from holdover.journal._errors import JournalError
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import HandoverRecord, JournalContents, Key, Record
from tests.simulation.clockwork import Process, until
from tests.simulation.rates import NONE
from tests.simulation.transcript import Transcript

_SHORT = 0.02
"""How likely an agent that is short of memory has none for a record."""

_SYNC = 1000.0
"""One by the mean seconds of a sync."""


class Disk:
    """What of a journal is on a host's disk, whatever becomes of the agent.

    Attributes:
        short_of_memory: Whether the agent has no memory now and then.
        reader_is_old: Whether the agent that starts is too old for one of the records.
    """

    def __init__(self, host: str, random: Random, log: Transcript) -> None:
        self.host = host
        self.random = random
        self.log = log
        self.rates = NONE
        self.kept = MemoryJournal()
        self.short_of_memory = False
        self.reader_is_old = False
        self._open: SimulatedJournal | None = None

    def open(self, process: Process) -> SimulatedJournal:
        """The journal, as a process opens it."""
        self._open = SimulatedJournal(self, process)
        return self._open

    async def close(self) -> None:
        """Close the journal that a process has open."""
        if self._open is not None:
            await self._open.close()

    def crash(self) -> None:
        """The agent or the host has died: the transaction under way is on the disk whole, or not at all."""
        if self._open is not None:
            self._open.crash()


class SimulatedJournal:
    """A journal that writes one transaction at a time; those who wait meanwhile share the next one."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self._waiting: list[tuple[tuple[Record, ...] | tuple[Key, ...], bool, asyncio.Future[None]]] = []
        self._under_way: list[tuple[tuple[Record, ...] | tuple[Key, ...], bool, asyncio.Future[None]]] = []
        self._closed = False
        self._failed: JournalError | None = None

    @property
    def failed(self) -> JournalError | None:
        """Why the last transaction failed; None when it succeeded."""
        return self._failed

    def load(self) -> JournalContents:
        """Everything that is on the disk, as the agent can read it."""
        found = self._disk.kept.load()
        if not self._disk.reader_is_old or not found.handovers:
            return found
        newer = self._disk.random.choice(found.handovers)
        unread = msgspec.structs.replace(newer, body=b"what only a newer agent can read")
        return replace(found, handovers=tuple(unread if each is newer else each for each in found.handovers))

    def steps(self, handover_id: str) -> tuple[HandoverRecord, ...]:
        """The states that a handover went through."""
        return self._disk.kept.steps(handover_id)

    async def put(self, *records: Record) -> None:
        """Keep records; see `Journal.put`."""
        await self._submit(records, forgets=False)

    async def note(self, *records: Record) -> None:
        """Keep records; see `Journal.note`."""
        await self.put(*records)

    async def forget(self, *keys: Key) -> None:
        """Remove guests or devices; see `Journal.forget`."""
        await self._submit(keys, forgets=True)

    async def close(self) -> None:
        """Write what waits."""
        self._closed = True
        await until(lambda: not self._under_way and not self._waiting)

    async def _submit(self, what: tuple[Record, ...] | tuple[Key, ...], *, forgets: bool) -> None:
        if self._closed:
            raise JournalError(Path(f"/{self._disk.host}"), "it is closed", "open it again")
        if (
            self._disk.rates is not NONE
            and self._disk.short_of_memory
            and self._disk.random.random() < _SHORT
        ):
            raise MemoryError
        done: asyncio.Future[None] = self._process.create_future()
        self._waiting.append((what, forgets, done))
        if not self._under_way:
            self._begin()
        await done

    def _begin(self) -> None:
        random, rates = self._disk.random, self._disk.rates
        self._under_way, self._waiting = self._waiting, []
        delay = random.expovariate(_SYNC)
        if rates is not NONE and random.random() < rates.slow_write:
            delay += random.random()
        self._process.call_later(delay, self._end)

    def _end(self) -> None:
        entries, self._under_way = self._under_way, []
        random, rates = self._disk.random, self._disk.rates
        failure: JournalError | None = None
        if rates is not NONE and random.random() < rates.refused_write:
            failure = JournalError(Path(f"/{self._disk.host}"), "the disk is full", "make room")
        if failure is None or random.random() < 0.5:  # of what failed it is not certain whether it is there
            self._write(entries)
        if failure is not None:
            self._disk.log.line(self._disk.host, "the journal's disk refuses a transaction")
        self._failed = failure
        for _, _, done in entries:
            if not done.done() and failure is None:
                done.set_result(None)
            elif not done.done() and failure is not None:
                done.set_exception(failure)
        if self._waiting:
            self._begin()

    def _write(
        self, entries: list[tuple[tuple[Record, ...] | tuple[Key, ...], bool, asyncio.Future[None]]]
    ) -> None:
        for what, forgets, _ in entries:
            write = self._disk.kept.forget(*what) if forgets else self._disk.kept.put(*what)
            try:
                write.send(None)  # memory waits for nothing
            except StopIteration:
                continue

    def crash(self) -> None:
        """The process has died: what is under way is on the disk, or not."""
        if self._under_way and self._disk.random.random() < 0.5:
            self._write(self._under_way)
        self._under_way, self._waiting = [], []
