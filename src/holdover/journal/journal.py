"""The journal of an agent: records that are on disk before they are acknowledged.

One thread writes. Whoever calls while it is at work waits, and is committed with all others that wait, in one
transaction and with one sync of the disk.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from holdover.journal._errors import JournalDamaged, JournalError
from holdover.journal._rows import Row, row_of
from holdover.journal._store import Forget, Store
from holdover.journal.records import HandoverRecord, JournalContents, Key, Record

__all__ = ["Journal", "JournalDamaged", "JournalError", "JournalLike"]

_PRUNE_EVERY = 86400.0
"""Seconds from one pruning of closed handovers to the next."""

_LET_GO_SECONDS = 0.00002
"""In each turn of the loop while something is to be written; the system makes it about 0.08 ms."""
_IDLE_SECONDS = 0.001
"""Until the first such pause, as an idle loop needs none; and between two while the disk is at work."""

_ANSWERED_AT_ONCE = 1
"""Callers that go on in one turn of the loop: each has something to do then."""


class JournalLike(Protocol):
    """What an agent needs of a journal, with a file or without."""

    def load(self) -> JournalContents: ...
    async def put(self, *records: Record) -> None: ...
    async def forget(self, *keys: Key) -> None: ...
    def steps(self, handover: str) -> tuple[HandoverRecord, ...]: ...
    async def close(self) -> None: ...

    @property
    def failed(self) -> JournalError | None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one caller waits for."""

    changes: tuple[Row | Forget, ...]
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Journal:
    """A journal in a file. It must be closed; until then no other process can open it."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._positions = itertools.count(store.last_position + 1)
        self._waiting: list[_Entry] = []
        self._wake = threading.Condition()
        self._closing = False
        self._failed: JournalError | None = None
        self._unanswered: dict[asyncio.Future[None], float] = {}
        self._letting_go = False
        self._pruned = -_PRUNE_EVERY
        self._thread = threading.Thread(target=self._write, name=f"journal {store.file}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, file: Path, clock: Callable[[], float] = time.time) -> Self:
        """Open a journal, or create it, for this user alone, where it is absent.

        All of it is read and checked: SQLite's own check, the schema, a checksum of each row, their number
        and sum, and that nothing is missing of what was ever acknowledged (``FILE.mark`` beside it knows).
        Where anything is wrong the file is left as it is. ``clock`` is for the age of closed handovers.

        Raises:
            JournalDamaged: The file is not what was written to it.
            JournalError: Another process has it open; it is no journal, or a newer Holdover's; or the disk
                refuses.
        """
        return cls(Store.open(file), clock)

    @property
    def file(self) -> Path:
        """Where it is, without links."""
        return self._store.file

    @property
    def failed(self) -> JournalError | None:
        """Why the last thing that was to be written was not; None once something has been again."""
        return self._failed

    def load(self) -> JournalContents:
        """Everything that is kept, read and checked anew where something was written since it was opened.

        Raises:
            JournalDamaged: The file is not what was written to it.
            JournalError: The journal is closed.
        """
        self._refuse_closed()
        return self._store.read()

    def steps(self, handover: str) -> tuple[HandoverRecord, ...]:
        """The states that a handover went through, oldest first; empty for one that is not known.

        Of a handover that closed more than 7 days ago there is the last one alone.

        Raises:
            JournalDamaged: One is not what was written.
            JournalError: They cannot be read, or the journal is closed.
        """
        self._refuse_closed()
        return self._store.steps(handover)

    async def put(self, *records: Record) -> None:
        """Keep records, in one transaction; they are on disk when this returns.

        A guest or device replaces the one with the same key, a handover's state joins those before it. What
        was called first is written first. A caller that is cancelled does not take its records back.

        Raises:
            JournalDamaged: The file is no longer what was written to it; nothing more is taken.
            JournalError: The disk refuses, for this caller and all that were to be written together; or the
                journal is closed. Whether the records are found at the next start is not certain then.
            ValueError: A text in a record is none, or a time is not a number; others are not concerned.
        """
        if records:
            await self._submit(lambda: tuple(row_of(record, next(self._positions)) for record in records))

    async def forget(self, *keys: Key) -> None:
        """Remove guests with their devices, or single devices; what is not there is forgotten already.

        Handovers are not concerned: open ones stay, closed ones go by age alone. For 30 days at least, and
        while it is among the newest 1,000, a closed handover is known, so that a late message of it is.

        Raises:
            JournalDamaged: As of `put`.
            JournalError: As of `put`.
        """
        if keys:
            await self._submit(lambda: tuple(_forget(key) for key in keys))

    async def _submit(self, changes: Callable[[], tuple[Row | Forget, ...]]) -> None:
        loop = asyncio.get_running_loop()
        with self._wake:
            self._refuse_closed()
            entry = _Entry(changes(), loop.create_future(), loop)
            self._waiting.append(entry)
            self._wake.notify()
        self._unanswered[entry.done] = time.monotonic()
        entry.done.add_done_callback(self._unanswered.pop)
        if not self._letting_go:
            self._letting_go = True
            loop.call_later(_IDLE_SECONDS, self._let_go, loop)
        await entry.done

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the writer thread have the interpreter for a moment, again and again until it has answered.

        A busy event loop lets it go often, and takes it back before the thread has woken up; and as each
        time the thread begins to wait anew, it never asks for it by `sys.setswitchinterval`.
        """
        oldest = next(iter(self._unanswered.values()), None)
        self._letting_go = oldest is not None
        if oldest is None:
            return
        early = oldest + _IDLE_SECONDS - time.monotonic()
        if early > 0:
            loop.call_later(early, self._let_go, loop)
            return
        time.sleep(_LET_GO_SECONDS)
        if self._store.syncing:
            loop.call_later(_IDLE_SECONDS, self._let_go, loop)
        else:
            loop.call_soon(self._let_go, loop)

    def _refuse_closed(self) -> None:
        if self._closing:
            raise JournalError(self._store.file, "it is closed", "open it anew")

    async def close(self) -> None:
        """Write what waits, then let go of the file. May be called again."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _write(self) -> None:
        """The writer thread, until `close`."""
        try:
            while entries := self._take():
                failure = self._commit(entries)
                _answer(entries, failure)
                if failure is None:
                    self._tidy()
        finally:
            self._store.close()

    def _take(self) -> list[_Entry]:
        """All that wait; empty when the journal is to be closed and nobody does."""
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            entries, self._waiting = self._waiting, []
            return entries

    def _commit(self, entries: list[_Entry]) -> Exception | None:
        if isinstance(self._failed, JournalDamaged):
            return self._failed
        try:
            self._store.commit(itertools.chain.from_iterable(entry.changes for entry in entries))
        except JournalError as error:
            self._failed = error
            return error
        except Exception as error:  # whatever it was, nobody may wait for ever
            return error
        self._failed = None
        return None

    def _tidy(self) -> None:
        """What costs time and nobody waits for: old handovers, and a long log."""
        now = time.monotonic()
        try:
            self._store.checkpoint()
            if now - self._pruned >= _PRUNE_EVERY:
                self._pruned = now
                self._store.prune(self._clock())
        except JournalError as error:
            self._failed = error


def _forget(key: Key) -> Forget:
    return Forget(key, None) if isinstance(key, str) else Forget(*key)


def _answer(entries: list[_Entry], failure: Exception | None) -> None:
    """Let the callers go on, each in its own loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, deque[asyncio.Future[None]]] = defaultdict(deque)
    for entry in entries:
        by_loop[entry.loop].append(entry.done)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, loop, waiting, failure)
        except RuntimeError:
            # The loop is closed: nobody waits in it any more.
            continue


def _settle(
    loop: asyncio.AbstractEventLoop, waiting: deque[asyncio.Future[None]], failure: Exception | None
) -> None:
    """A few now and the others in later turns: what each goes on with takes time, and all share the loop."""
    for _ in range(min(len(waiting), _ANSWERED_AT_ONCE)):
        done = waiting.popleft()
        if done.done():
            continue
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(copy.copy(failure))  # each caller adds its own traceback
    if waiting:
        loop.call_soon(_settle, loop, waiting, failure)
