"""The journal of an agent: records that are on disk before they are acknowledged.

One thread writes. Callers that come while this thread writes wait; the thread then commits the records of all
waiting callers in one transaction, with one sync of the disk.
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
from holdover.metrics.durations import COMMAND_BOUNDS, Durations

__all__ = ["Journal", "JournalDamaged", "JournalError", "JournalLike"]

_PRUNE_EVERY = 86400.0
"""The most seconds from one removal of old closed handovers to the next."""
_PRUNE_ROWS = 5000
"""The rows written after which the removal comes earlier: a busy driver would fill the disk within a day."""

_LET_GO_SECONDS = 0.00002
"""The pause in each turn of the loop while callers wait; the system makes about 0.08 ms of it."""
_IDLE_SECONDS = 0.001
"""The time until the first such pause, since an idle loop needs none; also the time between two pauses while
the disk works."""

_NOTE_SECONDS = 0.01
"""How long a record that nobody waits for waits for a transaction of others."""

_ANSWERED_AT_ONCE = 1
"""The callers that continue in one turn of the loop: each of them then has work to do."""


class JournalLike(Protocol):
    """What an agent needs from a journal, whether the journal has a file or not."""

    def load(self) -> JournalContents: ...
    async def put(self, *records: Record) -> None: ...
    async def note(self, *records: Record) -> None: ...
    async def forget(self, *keys: Key) -> None: ...
    def steps(self, handover_id: str) -> tuple[HandoverRecord, ...]: ...
    async def close(self) -> None: ...

    @property
    def failed(self) -> JournalError | None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    """The changes of one caller, and the future by which the caller waits for them."""

    changes: tuple[Row | Forget, ...]
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Journal:
    """A journal in a file. The owner must close it; until then no other process can open it.

    Attributes:
        commits: How long transactions took, failed ones too.
        failures: How many transactions have failed.
        records: How many changes were committed.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._positions = itertools.count(store.last_position + 1)
        self._waiting: list[_Entry] = []
        self._is_due = False
        self._wake = threading.Condition()
        self._closing = False
        self._failed: JournalError | None = None
        self._unanswered: dict[asyncio.Future[None], float] = {}
        self._letting_go = False
        self._pruned = -_PRUNE_EVERY
        self._rows = 0
        self.commits = Durations(COMMAND_BOUNDS)
        self.failures = 0
        self.records = 0
        self._thread = threading.Thread(target=self._write, name=f"journal {store.file}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, file: Path, clock: Callable[[], float] = time.time) -> Self:
        """Open a journal, or create it when it does not exist; only this user may read a new one.

        This reads and checks everything: SQLite's own check, the schema, the checksum of each row, the number
        of rows and the sum of their checksums, and, by ``FILE.mark`` beside the file, that no acknowledged
        transaction is missing. When anything is wrong, the file is left as it is. ``clock`` gives the age of
        closed handovers.

        Raises:
            JournalDamaged: The file differs from what was written to it.
            JournalError: Another process has the file open; the file is not a journal, or is from a newer
                Holdover; or the disk refuses.
        """
        return cls(Store.open(file), clock)

    @property
    def file(self) -> Path:
        """The path of the journal, with symbolic links resolved."""
        return self._store.file

    @property
    def failed(self) -> JournalError | None:
        """Why the last write failed; None when the last write succeeded."""
        return self._failed

    def load(self) -> JournalContents:
        """Everything that is kept. This reads and checks the file again if it changed since it was opened.

        Raises:
            JournalDamaged: The file differs from what was written to it.
            JournalError: The journal is closed.
        """
        self._refuse_closed()
        return self._store.read()

    def steps(self, handover_id: str) -> tuple[HandoverRecord, ...]:
        """The states that a handover went through, oldest first; empty when the handover is not known.

        Of a handover that closed more than 7 days ago, or is not among the newest 1,000 closed ones, only the
        last state is kept.

        Raises:
            JournalDamaged: A state differs from what was written.
            JournalError: The states cannot be read, or the journal is closed.
        """
        self._refuse_closed()
        return self._store.steps(handover_id)

    async def put(self, *records: Record) -> None:
        """Keep records, in one transaction. When this returns, the records are on disk.

        A guest or device replaces the record with the same key; a state of a handover is added to its earlier
        states. Records are written in the order of the calls. Cancelling a caller does not undo its records.

        Raises:
            JournalDamaged: The file now differs from what was written to it; the journal takes no more
                records.
            JournalError: The disk refuses the transaction of this caller and of the callers that waited with
                it; or the journal is closed. It is then not certain whether the next start finds the records.
            ValueError: A text in a record is not valid Unicode, or a time is not a finite number; the records
                of other callers are written all the same.
        """
        if records:
            await self._submit(lambda: tuple(row_of(record, next(self._positions)) for record in records))

    async def note(self, *records: Record) -> None:
        """Keep records that nobody waits for, in the order of all calls. Raises as `put`.

        They go with the next transaction, or begin one after 10 ms: a transaction takes time from the event
        loop, for which a guest may stand still.
        """
        if records:
            loop = asyncio.get_running_loop()
            entry = self._add(lambda: tuple(row_of(record, next(self._positions)) for record in records))
            loop.call_later(_NOTE_SECONDS, self._hurry)
            await entry.done

    async def forget(self, *keys: Key) -> None:
        """Remove guests with their devices, or single devices. A key that is not there is no error.

        This does not remove handovers: open ones stay, and closed ones go by their age and number. A closed
        handover is known while it is among the newest 1,000, and for 30 days while it is among the newest
        10,000, so that the agent recognises a late message about it.

        Raises:
            JournalDamaged: As in `put`.
            JournalError: As in `put`.
        """
        if keys:
            await self._submit(lambda: tuple(_forget(key) for key in keys))

    async def _submit(self, changes: Callable[[], tuple[Row | Forget, ...]]) -> None:
        loop = asyncio.get_running_loop()
        entry = self._add(changes)
        self._hurry()
        self._unanswered[entry.done] = time.monotonic()
        entry.done.add_done_callback(self._unanswered.pop)
        if not self._letting_go:
            self._letting_go = True
            loop.call_later(_IDLE_SECONDS, self._let_go, loop)
        await entry.done

    def _add(self, changes: Callable[[], tuple[Row | Forget, ...]]) -> _Entry:
        loop = asyncio.get_running_loop()
        with self._wake:
            self._refuse_closed()
            entry = _Entry(changes(), loop.create_future(), loop)
            self._waiting.append(entry)
            return entry

    def _hurry(self) -> None:
        """Have everything written that waits."""
        with self._wake:
            self._is_due = bool(self._waiting)
            self._wake.notify()

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        """Release the interpreter lock to the writer thread for a moment, repeatedly, until it has answered.

        A busy event loop releases the lock often, and takes it back before the writer thread has woken up.
        The thread then starts to wait again, so it never waits as long as `sys.setswitchinterval` says, after
        which it could demand the lock.
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
            raise JournalError(self._store.file, "it is closed", "open it again")

    async def close(self) -> None:
        """Write the records that wait, then close the file. May be called more than once."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _write(self) -> None:
        """The body of the writer thread; returns after `close`."""
        try:
            while entries := self._take():
                failure = self._commit(entries)
                _answer(entries, failure)
                if failure is None:
                    self._tidy()
        finally:
            self._store.close()

    def _take(self) -> list[_Entry]:
        """All entries that wait; empty when nothing waits and the journal is to be closed."""
        with self._wake:
            while not self._is_due and not self._closing:
                self._wake.wait()
            entries, self._waiting, self._is_due = self._waiting, [], False
            return entries

    def _commit(self, entries: list[_Entry]) -> Exception | None:
        if isinstance(self._failed, JournalDamaged):
            return self._failed
        began = time.perf_counter()
        try:
            self._store.commit(itertools.chain.from_iterable(entry.changes for entry in entries))
        except JournalError as error:
            self._failed = error
            self.failures += 1
            return error
        except Exception as error:  # whatever the error is, no caller may wait for ever
            return error
        finally:
            self.commits.observe(time.perf_counter() - began)
        self._failed = None
        self.records += sum(len(entry.changes) for entry in entries)
        self._rows += sum(len(entry.changes) for entry in entries)
        return None

    def _tidy(self) -> None:
        """Do the slow work for which no caller waits: remove old handovers, copy a long log into the file."""
        now = time.monotonic()
        try:
            self._store.checkpoint()
            if now - self._pruned >= _PRUNE_EVERY or self._rows >= _PRUNE_ROWS:
                self._pruned, self._rows = now, 0
                self._store.prune(self._clock())
        except JournalError as error:
            self._failed = error


def _forget(key: Key) -> Forget:
    return Forget(key, None) if isinstance(key, str) else Forget(*key)


def _answer(entries: list[_Entry], failure: Exception | None) -> None:
    """Tell the callers the result, each in its own event loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, deque[asyncio.Future[None]]] = defaultdict(deque)
    for entry in entries:
        by_loop[entry.loop].append(entry.done)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, loop, waiting, failure)
        except RuntimeError:
            # The loop is closed, so no caller waits in it any more.
            continue


def _settle(
    loop: asyncio.AbstractEventLoop, waiting: deque[asyncio.Future[None]], failure: Exception | None
) -> None:
    """Answer a few callers now and the others in later turns of the loop.

    All callers share the loop, and each has work to do once it is answered.
    """
    for _ in range(min(len(waiting), _ANSWERED_AT_ONCE)):
        done = waiting.popleft()
        if done.done():
            continue
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(copy.copy(failure))  # a copy, because each caller adds its own traceback
    if waiting:
        loop.call_soon(_settle, loop, waiting, failure)
