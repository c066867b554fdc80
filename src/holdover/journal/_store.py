"""The journal's file: opened with every check there is, and changed one durable transaction at a time."""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

from holdover.journal._errors import MEND, JournalDamaged, JournalError, of_disk
from holdover.journal._mark import Mark, MarkFile, mark_path, sync_folder
from holdover.journal._reading import Reading, connect, foreign, lacking, read_all, read_steps
from holdover.journal._rows import (
    APPLICATION,
    DEVICE,
    GUEST,
    SCHEMA,
    SELECT_SEAL,
    STEP,
    TABLES,
    UPDATE_SEAL,
    VERSION,
    Row,
    Seal,
    Table,
    Value,
    checksums_of,
    seal_of,
)
from holdover.journal.records import HandoverRecord, JournalContents, contents_of

__all__ = ["KEEP_IDENTITIES", "KEEP_IDENTITY", "KEEP_STEPS", "Forget", "Store"]

KEEP_STEPS = 7 * 86400.0
"""Seconds for which all states of a closed handover are kept; after that the last one alone."""
KEEP_IDENTITY = 30 * 86400.0
"""Seconds for which a closed handover is known at all."""
KEEP_IDENTITIES = 1000
"""Closed handovers that are known however old they seem: a clock may have jumped."""

_CHECKPOINT_ROWS = 2000
"""Rows written before the write-ahead log is brought into the file; each costs it a page or two of 4 KiB."""
_ROWS_AT_ONCE = 90
"""Rows in one statement: ten values each, and 999 in all with an SQLite before 3.32."""
_SIDE_FILES = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Forget:
    """A guest with its devices or, with a designator, one device of it."""

    guest: str
    designator: str | None


class Store:
    """A journal's file, open in this process alone. `commit`, `prune` and `checkpoint` are for one thread."""

    def __init__(
        self,
        file: Path,
        mark: MarkFile,
        reader: sqlite3.Connection,
        writer: sqlite3.Connection,
        reading: Reading,
    ) -> None:
        self.file = file
        self._mark = mark
        self._reader = reader
        self._writer = writer
        self._seal = reading.seal or Seal(b"")
        self._positions: dict[tuple[str, str], tuple[int, ...]] = {}
        """Where the states of each side, handover and role, of a handover stand, oldest first."""
        for position, step in reading.steps:
            self._note(position, step.handover, step.role)
        self.last_position = max((position for position, _ in reading.steps), default=0)
        self._as_opened: JournalContents | None = None
        """What was read when it was opened; None once it has been handed out, or has changed."""
        self._rows_in_log = 0
        self.syncing = False
        """Whether the disk is at work for a transaction; other threads may look."""
        self._nodes: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def open(cls, file: Path) -> Self:
        """Open a journal, or create it where it is absent, and check all of it before anything is written.

        Raises:
            JournalDamaged: It is not what was written; it has been left as it is.
            JournalError: It is in use, no journal, from a newer Holdover, or the system refuses.
        """
        file = file.resolve()
        try:
            with ExitStack() as opened:
                _check_place(file)
                mark_file = MarkFile(file)
                opened.callback(mark_file.close)
                mark = mark_file.read()
                if not file.exists():
                    _create(file, mark)
                reader, reading = _examined(file, mark)
                opened.callback(reader.close)
                writer = _writer(file)
                opened.callback(writer.close)
                store = cls(file, mark_file, reader, writer, reading)
                store._begin()
                store._as_opened = _contents(reading)
                opened.pop_all()
                return store
        except (sqlite3.Error, OSError) as error:
            raise of_disk(file, error) from error

    def _begin(self) -> None:
        # One transaction at once: a disk that takes none is found out before the agent relies on it.
        self.commit(())
        self._mark.write(self._seal.identity, self._seal.sequence, sync=True)

    def read(self) -> JournalContents:
        """Everything as it now is on disk.

        Raises:
            JournalDamaged: It is not what was written.
        """
        contents, self._as_opened = self._as_opened, None
        if contents is None:
            reading = read_all(self._reader)
            _refuse_damaged(self.file, reading)
            contents = _contents(reading)
        return contents

    def steps(self, handover: str) -> tuple[HandoverRecord, ...]:
        """The states of a handover that are kept, oldest first.

        Raises:
            JournalDamaged: One is not what was written.
            JournalError: They cannot be read.
        """
        try:
            positions = self._positions.copy()  # another thread may add to it
            of_it = (at for (name, _), each in positions.items() if name == handover for at in each)
            return tuple(read_steps(self._reader, sorted(of_it)))
        except ValueError as error:
            raise JournalDamaged(self.file, f"damaged: {error}", MEND) from error
        except sqlite3.Error as error:
            raise of_disk(self.file, error) from error

    def commit(self, changes: Iterable[Row | Forget]) -> None:
        """Carry out changes in this order, all or none; they are on disk when this returns.

        After an error, whether they are found when the file is next opened is not certain.

        Raises:
            JournalDamaged: The file is not what was written, was replaced, or somebody else wrote to it.
            JournalError: The disk refuses.
        """
        try:
            removed: list[bytes] = []
            added: list[Row] = []
            self._as_opened = None
            self._start()
            # of what is changed twice in one go only the last has ever been
            newest: dict[tuple[str, tuple[Value, ...]], Row] = {}
            for change in changes:
                if isinstance(change, Row):
                    newest[change.table.name, change.key] = change
                    continue
                added += self._upsert(newest.values(), removed)
                newest.clear()
                self._forget(change, removed)
            added += self._upsert(newest.values(), removed)
            self._finish(removed, [row.checksum for row in added])
            for row in added:
                if row.state is not None:
                    self._note(*row.state)
            self._acknowledge()
        except (sqlite3.Error, OSError) as error:
            self._abandon()
            raise of_disk(self.file, error) from error
        except BaseException:
            self._abandon()
            raise

    def _start(self) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        row = self._writer.execute(SELECT_SEAL).fetchone()
        if row is None or seal_of(row) != self._seal:
            raise JournalDamaged(
                self.file, "somebody else has written to it", "end that program, then start the agent anew"
            )

    def _finish(self, removed: list[bytes], added: list[bytes]) -> None:
        seal = self._seal.changed(removed=removed, added=added)
        self._writer.execute(UPDATE_SEAL, seal.values())
        self.syncing = True
        try:
            self._writer.execute("COMMIT")
        finally:
            self.syncing = False
        self._seal = seal
        self._rows_in_log += len(removed) + len(added) + 1

    def _acknowledge(self) -> None:
        """Make sure that what has been committed will be found, and missed if it is not."""
        self._check_nodes()
        self._mark.write(self._seal.identity, self._seal.sequence)

    def _abandon(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            # The next BEGIN fails then, and says why.
            return

    def _check_nodes(self) -> None:
        """See that file and write-ahead log still have their names, so that a restart will find them."""
        nodes = tuple(
            (found.st_dev, found.st_ino)
            for found in (os.stat(path) for path in (self.file, _beside(self.file, "-wal")))
        )
        if self._nodes is None:
            self._nodes = nodes
        if nodes != self._nodes:
            raise JournalDamaged(
                self.file,
                "it, or its write-ahead log, was replaced while in use",
                "put the file that was there back, then start the agent anew",
            )

    def _upsert(self, rows: Collection[Row], removed: list[bytes]) -> Collection[Row]:
        """Put rows with different keys, and say which they were.

        Many in one statement: SQLite lets the interpreter go around each, and where the event loop is busy
        this thread then waits for it each time.
        """
        for table in TABLES:
            of_table = [row for row in rows if row.table is table]
            for first in range(0, len(of_table), _ROWS_AT_ONCE):
                self._upsert_few(table, of_table[first : first + _ROWS_AT_ONCE], removed)
        return tuple(rows)

    def _upsert_few(self, table: Table, rows: list[Row], removed: list[bytes]) -> None:
        if table is not STEP:
            keys = tuple(chain.from_iterable(row.key for row in rows))
            (found,) = self._writer.execute(table.checksums(len(rows)), keys).fetchone()
            removed += checksums_of(found)
        values = chain.from_iterable((*row.values, row.checksum) for row in rows)
        self._writer.execute(table.upsert(len(rows)), tuple(values))

    def _forget(self, forget: Forget, removed: list[bytes]) -> None:
        if forget.designator is not None:
            key = (forget.guest, forget.designator)
            removed += self._checksums(DEVICE.checksum, key)
            self._writer.execute("DELETE FROM device WHERE guest = ? AND designator = ?", key)
            return
        guest = (forget.guest,)
        removed += self._checksums(GUEST.checksum, guest)
        removed += self._checksums("SELECT checksum FROM device WHERE guest = ?", guest)
        self._writer.execute("DELETE FROM guest WHERE name = ?", guest)
        self._writer.execute("DELETE FROM device WHERE guest = ?", guest)

    def _checksums(self, select: str, key: tuple[Value, ...]) -> list[bytes]:
        return [digest for (digest,) in self._writer.execute(select, key)]

    def prune(self, now: float) -> None:
        """Let go of what is kept of closed handovers longer than is promised; ``now`` as `HandoverRecord.at`.

        Raises:
            JournalDamaged: As of `commit`.
            JournalError: The disk refuses.
        """
        try:
            self._start()
            kept = self._kept(now)
            if not kept:
                self._abandon()
                return
            self._finish([*self._drop_others(kept)], [])
            self._positions.update(kept)
            for side in [side for side, positions in kept.items() if not positions]:
                del self._positions[side]
            self._acknowledge()
        except ValueError as error:
            self._abandon()
            raise JournalDamaged(self.file, f"damaged: {error}", MEND) from error
        except (sqlite3.Error, OSError) as error:
            self._abandon()
            raise of_disk(self.file, error) from error
        except BaseException:
            self._abandon()
            raise

    def _kept(self, now: float) -> dict[tuple[str, str], tuple[int, ...]]:
        """What stays of each side of a closed handover of which something is to go."""
        kept = {}
        closed = 0
        for side, positions in sorted(self._positions.items(), key=lambda item: item[1][-1], reverse=True):
            newest = next(read_steps(self._writer, positions[-1:]), None)
            if newest is None:
                raise ValueError(f"table step: row {positions[-1]} is gone")
            closed += not newest.open
            age = now - newest.at
            if newest.open or age <= KEEP_STEPS:
                continue
            staying = () if closed > KEEP_IDENTITIES and age > KEEP_IDENTITY else positions[-1:]
            if staying != positions:
                kept[side] = staying
        return kept

    def _drop_others(self, kept: dict[tuple[str, str], tuple[int, ...]]) -> Iterator[bytes]:
        """Remove what does not stay; the checksums of what is removed."""
        for side, staying in kept.items():
            for position in set(self._positions[side]).difference(staying):
                yield from self._checksums(STEP.checksum, (position,))
                self._writer.execute("DELETE FROM step WHERE position = ?", (position,))

    def _note(self, position: int, handover: str, role: str) -> None:
        # In one assignment: another thread may be reading.
        side = handover, role
        self._positions[side] = (*self._positions.get(side, ()), position)

    def checkpoint(self) -> None:
        """Bring the write-ahead log into the file once it is long; what was written is durable before, too.

        Raises:
            JournalError: The disk refuses; the log goes on growing until it can be done.
        """
        if self._rows_in_log < _CHECKPOINT_ROWS:
            return
        try:
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise of_disk(self.file, error) from error
        self._rows_in_log = 0

    def close(self) -> None:
        """Close the file and let others have it. What cannot be brought into the file stays in its log."""
        self._reader.close()
        try:
            self._writer.close()
        finally:
            self._mark.close()


def _contents(reading: Reading) -> JournalContents:
    return contents_of(reading.guests, reading.devices, [step for _, step in reading.steps])


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _check_place(file: Path) -> None:
    """Refuse, before anything is made there, what cannot be a journal."""
    if not file.parent.is_dir():
        raise JournalError(file, f"there is no folder {file.parent}", "create it, for the agent's user alone")
    if not file.exists():
        return
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise JournalError(file, "it is not a file", "name a file, or a name that is still free")
    if found.st_size == 0:
        raise JournalDamaged(file, "damaged: it is empty", f"put a good copy in its place; {_anew(file)}")
    with file.open("rb") as opened:
        reason = foreign(opened.read(100))
    if reason is not None:
        raise JournalError(file, reason, "name another file, or use the Holdover that wrote it")


def _anew(file: Path) -> str:
    return f"or remove it and {mark_path(file)} to begin anew, with handovers that are under way forgotten"


def _create(file: Path, mark: Mark | None) -> None:
    """Make an empty journal, which is there whole or not at all."""
    if mark is not None:
        raise JournalDamaged(
            file,
            f"it is gone, and {mark.sequence} transactions had been acknowledged",
            f"put it back with its -wal; {_anew(file)}",
        )
    new = _beside(file, ".new")
    for suffix in _SIDE_FILES:
        _beside(new, suffix).unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = connect(new, "rw")
    try:
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        for create in SCHEMA.values():
            connection.execute(create)
        connection.execute(UPDATE_SEAL, Seal(secrets.token_bytes(16)).values())
        connection.execute("COMMIT")
    finally:
        connection.close()
    new.rename(file)
    sync_folder(file)


def _examined(file: Path, mark: Mark | None) -> tuple[sqlite3.Connection, Reading]:
    """A connection that only reads, and everything there is, checked."""
    reader = connect(file, "ro")
    try:
        reading = read_all(reader)
        _refuse_damaged(file, reading)
        _refuse_older(file, reading, mark)
    except BaseException:
        reader.close()
        raise
    return reader, reading


def _refuse_damaged(file: Path, reading: Reading) -> None:
    if reading.findings:
        first, *more = reading.findings
        others = f" (and {len(more)} more)" if more else ""
        raise JournalDamaged(file, f"damaged: {first}{others}", MEND)


def _refuse_older(file: Path, reading: Reading, mark: Mark | None) -> None:
    lack = lacking(reading.seal, mark) if reading.seal is not None else None
    if lack is not None:
        remedy = f"put the newest file back, with its -wal; or, to go by this one, remove {mark_path(file)}"
        raise JournalDamaged(file, lack, remedy)


def _writer(file: Path) -> sqlite3.Connection:
    connection = connect(file, "rw")
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(
                file, f"its file system allows no write-ahead log ({mode})", "use a local disk"
            )
        connection.execute("PRAGMA synchronous = FULL")
        # The writer thread brings the log into the file itself, after it has answered.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return connection
