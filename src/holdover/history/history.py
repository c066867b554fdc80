"""The history of an agent, in a file of its own beside the journal.

Nobody waits for it: entries are queued, and a thread writes those of a tenth of a second at once. So it adds
nothing to a handover. If the agent is killed, the last tenth of a second may be missing. After a power
failure, what SQLite had not synced yet is missing (write-ahead log, ``synchronous=NORMAL``). The journal
misses nothing in either case.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from holdover.history.entry import Entry

log = structlog.get_logger()

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, guest TEXT NOT NULL, lun TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_of_guests ON entries (guest, id);
CREATE INDEX IF NOT EXISTS entries_of_luns ON entries (lun, id);
"""
_TOGETHER_SECONDS = 0.1
_QUEUE_MOST = 10_000
_PRUNE_EVERY = 1000
"""After so many entries, old ones are removed."""


class History:
    """The history in a file; None keeps nothing. The owner closes it."""

    def __init__(
        self, file: Path | None, days: int, most: int, clock: Callable[[], float] = time.time
    ) -> None:
        """``days``: how long entries are kept; ``most``: how many are kept at most."""
        self.file = file or Path()
        self._keeps = file is not None
        self._days = days
        self._most = most
        self._clock = clock
        self._queue: deque[Callable[[], Entry | None]] = deque()
        lock = threading.Lock()
        self._wake, self._wrote = threading.Condition(lock), threading.Condition(lock)
        self._queued = self._written = 0
        self._closing = threading.Event()
        self._database: sqlite3.Connection | None = None
        self._lost = 0
        self._asked: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        if file is not None:
            self._thread = threading.Thread(target=self._write, name="history", daemon=True)
            self._thread.start()

    def asked(self, guest: str, what: str, by: str) -> None:
        """Add a request about a guest; `asker` returns who made it."""
        self._asked[guest] = by
        self.add(Entry(at=self._clock(), guest=guest, what=what, by=by))

    def asker(self, guest: str) -> str:
        """Who made the last request about a guest; "agent" if nobody has since the agent started."""
        return self._asked.get(guest, "agent")

    def now(self) -> float:
        """The time of an entry."""
        return self._clock()

    def add(self, entry: Entry) -> None:
        """Add an entry, without waiting. Any thread may call this."""
        self.add_later(lambda: entry)

    def add_later(self, make: Callable[[], Entry | None]) -> None:
        """Add the entry that ``make`` returns, if any. The thread that writes calls it."""
        if not self._keeps:
            return
        with self._wake:
            if len(self._queue) >= _QUEUE_MOST:
                self._lost += 1
                return
            self._queue.append(make)
            self._queued += 1
            self._wake.notify()

    def settle(self, limit: float = 5.0) -> None:
        """Wait until what is queued now is written, or until ``limit`` seconds have passed."""
        with self._wrote:
            queued = self._queued
            self._wrote.wait_for(lambda: self._written >= queued, limit)

    def _write(self) -> None:
        """The body of the writer's thread."""
        while True:
            with self._wake:
                while not self._queue and not self._closing.is_set():
                    self._wake.wait()
            self._closing.wait(_TOGETHER_SECONDS)
            with self._wake:
                queued, lost = tuple(self._queue), self._lost
                self._queue.clear()
                self._lost = 0
                is_last = self._closing.is_set()
            entries = [entry for make in queued if (entry := make()) is not None]
            if entries:
                self._commit(entries)
            with self._wrote:
                self._written += len(queued)
                self._wrote.notify_all()
            if lost:
                log.error("The history has lost entries, because its disk was too slow.", count=lost)
            if is_last:
                break
        if self._database is not None:
            self._database.close()

    def _commit(self, entries: Sequence[Entry]) -> None:
        rows = [(each.at, each.guest, each.lun, msgspec.json.encode(each)) for each in entries]
        try:
            if self._database is None:
                self._database = _opened(self.file)
            with self._database as database:
                database.executemany("INSERT INTO entries (at, guest, lun, body) VALUES (?, ?, ?, ?)", rows)
                (newest,) = database.execute("SELECT max(id) FROM entries").fetchone()
                if newest % _PRUNE_EVERY < len(rows):
                    self._prune(database, newest)
        except (sqlite3.Error, OSError) as error:
            log.error(
                "The history could not be written.", file=str(self.file), reason=str(error), count=len(rows)
            )

    def _prune(self, database: sqlite3.Connection, newest: int) -> None:
        oldest = self._clock() - self._days * 86400
        database.execute("DELETE FROM entries WHERE at < ? OR id <= ?", (oldest, newest - self._most))

    def close(self) -> None:
        """Write what is queued, and stop."""
        self._closing.set()
        with self._wake:
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()


def read(file: Path, name: str, since: float, limit: int) -> tuple[Entry, ...]:
    """The newest entries, oldest first; ``name``: a guest or a LUN; empty: all.

    Raises:
        sqlite3.Error: The file cannot be read.
    """
    if not file.is_file():
        return ()
    database = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
    with contextlib.closing(database):
        rows = database.execute(
            "SELECT body FROM entries WHERE at >= ? AND (? = '' OR guest = ? OR lun = ?) "
            "ORDER BY id DESC LIMIT ?",
            (since, name, name, name, limit),
        ).fetchall()
    return tuple(msgspec.json.decode(body, type=Entry) for (body,) in reversed(rows))


def _opened(file: Path) -> sqlite3.Connection:
    if not file.exists():
        file.touch(mode=0o600)
    database = sqlite3.connect(file, timeout=10)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.executescript(_SCHEMA)
    return database


NO_HISTORY = History(None, 1, 1)
"""A history that keeps nothing."""
