"""The journal's file: opening it checks all of it, and one durable transaction at a time changes it."""

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

from holdover.journal._conversion import CONVERTIBLE, convert
from holdover.journal._errors import MEND, JournalDamaged, JournalError, of_disk
from holdover.journal._mark import Mark, MarkFile, mark_path, sync_folder
from holdover.journal._reading import (
    JournalReading,
    connect,
    foreign,
    lacking,
    read_all,
    read_steps,
    schema_of,
)
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

KEEP_STEPS = 7 * 86400.0
"""The seconds for which all states of a closed handover are kept, up to `MOST_WITH_STEPS` handovers; after
that only the last state is kept."""
KEEP_IDENTITY = 30 * 86400.0
"""The seconds for which the last state of a closed handover is kept, up to `MOST_IDENTITIES` handovers."""
KEEP_IDENTITIES = 1000
"""The number of newest closed handovers that are kept whatever their age: a clock may have jumped."""
MOST_WITH_STEPS = 1000
"""The most closed handovers of which all states are kept; a driver may begin a handover each second."""
MOST_IDENTITIES = 10000
"""The most closed handovers of which at least the last state is kept, whatever their age."""

_CHECKPOINT_ROWS = 2000
"""The rows written before the write-ahead log is copied into the file; a row takes one or two 4 KiB pages."""
_ROWS_AT_ONCE = 90
"""The most rows in one statement: a row has ten values, and SQLite before 3.32 allows 999 in a statement."""
_SIDE_FILES = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Forget:
    """An order to remove a guest with its devices or, when there is a designator, one device of the guest."""

    guest: str
    designator: str | None


class Store:
    """A journal's file, open only in this process. One thread calls `commit`, `prune` and `checkpoint`."""

    def __init__(
        self,
        file: Path,
        mark: MarkFile,
        reader: sqlite3.Connection,
        writer: sqlite3.Connection,
        reading: JournalReading,
    ) -> None:
        self.file = file
        self._mark = mark
        self._reader = reader
        self._writer = writer
        self._seal = reading.seal or Seal(b"")
        self._positions: dict[tuple[str, str], tuple[int, ...]] = {}
        """The positions of the states of each side (handover and role), oldest first."""
        for position, step in reading.steps:
            self._note(position, step.handover_id, step.role)
        self.last_position = max((position for position, _ in reading.steps), default=0)
        self._as_opened: JournalContents | None = None
        """The contents when the file was opened; None after `read` has returned them, or after a change."""
        self._rows_in_log = 0
        self.syncing = False
        """Whether a transaction waits for the disk; other threads may read this."""
        self._nodes: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def open(cls, file: Path) -> Self:
        """Open a journal, or create it when it does not exist. Checks all of it before it writes anything.

        Raises:
            JournalDamaged: The file differs from what was written; the file is left as it is.
            JournalError: The file is in use, is not a journal, or is from a newer Holdover; or the system
                refuses.
        """
        file = file.resolve()
        try:
            with ExitStack() as opened:
                _check_place(file)
                mark_file = MarkFile(file)
                opened.callback(mark_file.close)
                mark = mark_file.read()
                if file.exists():
                    convert(file, mark)
                else:
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
        # Write one transaction now: so a disk that takes none is found before the agent relies on it.
        self.commit(())
        self._mark.write(self._seal.identity, self._seal.sequence, sync=True)

    def read(self) -> JournalContents:
        """Everything that is on disk now.

        Raises:
            JournalDamaged: The file differs from what was written.
        """
        contents, self._as_opened = self._as_opened, None
        if contents is None:
            reading = read_all(self._reader)
            _refuse_damaged(self.file, reading)
            contents = _contents(reading)
        return contents

    def steps(self, handover_id: str) -> tuple[HandoverRecord, ...]:
        """The states of a handover that are kept, oldest first.

        Raises:
            JournalDamaged: A state differs from what was written.
            JournalError: The states cannot be read.
        """
        try:
            positions = self._positions.copy()  # another thread may add a position meanwhile
            of_it = (at for (name, _), each in positions.items() if name == handover_id for at in each)
            return tuple(read_steps(self._reader, sorted(of_it)))
        except ValueError as error:
            raise JournalDamaged(self.file, f"damaged: {error}", MEND) from error
        except sqlite3.Error as error:
            raise of_disk(self.file, error) from error

    def commit(self, changes: Iterable[Row | Forget]) -> None:
        """Carry out changes in this order, all or none. When this returns, the changes are on disk.

        After an error it is not certain whether the changes are there when the file is next opened.

        Raises:
            JournalDamaged: The file differs from what was written, was replaced, or another program wrote to
                it.
            JournalError: The disk refuses.
        """
        try:
            removed: list[bytes] = []
            added: list[Row] = []
            self._as_opened = None
            self._start()
            # When one transaction changes a row twice, only the last value is written.
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
                self.file, "another program wrote to it", "end that program, then restart the agent"
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
        """Check that a restart will find what was committed, and write the mark, which shows a later loss."""
        self._check_nodes()
        self._mark.write(self._seal.identity, self._seal.sequence)

    def _abandon(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            # The next BEGIN then fails, and its error says why.
            return

    def _check_nodes(self) -> None:
        """Check that the file and its write-ahead log still have their names; a restart looks for these."""
        nodes = tuple(
            (found.st_dev, found.st_ino)
            for found in (os.stat(path) for path in (self.file, _beside(self.file, "-wal")))
        )
        if self._nodes is None:
            self._nodes = nodes
        if nodes != self._nodes:
            raise JournalDamaged(
                self.file,
                "it, or its write-ahead log, was replaced while the agent used it",
                "put the original file back, then restart the agent",
            )

    def _upsert(self, rows: Collection[Row], removed: list[bytes]) -> Collection[Row]:
        """Write rows with different keys; returns these rows.

        One statement writes many rows. SQLite releases the interpreter lock for each statement, and when the
        event loop is busy, this thread waits each time to get the lock back.
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
        """Remove the states of closed handovers that are older than the limits above allow.

        ``now`` is a time like `HandoverRecord.at`.

        Raises:
            JournalDamaged: As in `commit`.
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
        """The positions to keep, for each side of a closed handover that has states to remove."""
        kept = {}
        closed = 0
        for side, positions in sorted(self._positions.items(), key=lambda item: item[1][-1], reverse=True):
            newest = next(read_steps(self._writer, positions[-1:]), None)
            if newest is None:
                raise ValueError(f"table step: row {positions[-1]} is missing")
            closed += not newest.open
            age = now - newest.at
            if newest.open or (age <= KEEP_STEPS and closed <= MOST_WITH_STEPS):
                continue
            too_old = closed > KEEP_IDENTITIES and age > KEEP_IDENTITY
            staying = () if too_old or closed > MOST_IDENTITIES else positions[-1:]
            if staying != positions:
                kept[side] = staying
        return kept

    def _drop_others(self, kept: dict[tuple[str, str], tuple[int, ...]]) -> Iterator[bytes]:
        """Remove the states that are not kept; yields the checksums of the removed rows."""
        for side, staying in kept.items():
            for position in set(self._positions[side]).difference(staying):
                yield from self._checksums(STEP.checksum, (position,))
                self._writer.execute("DELETE FROM step WHERE position = ?", (position,))

    def _note(self, position: int, handover_id: str, role: str) -> None:
        # One assignment changes this, because another thread may read meanwhile.
        side = handover_id, role
        self._positions[side] = (*self._positions.get(side, ()), position)

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file when the log is long. The log is durable before that too.

        Raises:
            JournalError: The disk refuses; the log grows until a later checkpoint succeeds.
        """
        if self._rows_in_log < _CHECKPOINT_ROWS:
            return
        try:
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise of_disk(self.file, error) from error
        self._rows_in_log = 0

    def close(self) -> None:
        """Close the file and release its lock. What cannot be copied into the file stays in its log."""
        self._reader.close()
        try:
            self._writer.close()
        finally:
            self._mark.close()


def _contents(reading: JournalReading) -> JournalContents:
    return contents_of(reading.guests, reading.devices, [step for _, step in reading.steps])


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _check_place(file: Path) -> None:
    """Refuse a path that cannot be a journal, before anything is created there."""
    if not file.parent.is_dir():
        remedy = "create it, and let only the agent's user use it"
        raise JournalError(file, f"the folder {file.parent} does not exist", remedy)
    if not file.exists():
        return
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise JournalError(file, "it is not a regular file", "give the path of a file, or of a new file")
    if found.st_size == 0:
        raise JournalDamaged(file, "damaged: it is empty", f"replace it by a good copy, {_anew(file)}")
    with file.open("rb") as opened:
        head = opened.read(100)
    reason = foreign(head)
    if reason is not None and schema_of(head) not in CONVERTIBLE:
        raise JournalError(
            file, reason, "give the path of another file, or use the Holdover that wrote this one"
        )


def _anew(file: Path) -> str:
    remedy = f"or remove it and {mark_path(file)}"
    return f"{remedy}: then the agent starts with an empty journal and forgets open handovers"


def _create(file: Path, mark: Mark | None) -> None:
    """Create an empty journal. After a crash the journal exists whole, or it does not exist."""
    if mark is not None:
        raise JournalDamaged(
            file,
            f"it is missing, and its mark says that {mark.sequence} transactions were acknowledged",
            f"put it back together with its -wal file, {_anew(file)}",
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


def _examined(file: Path, mark: Mark | None) -> tuple[sqlite3.Connection, JournalReading]:
    """A read-only connection, and everything in the file, checked."""
    reader = connect(file, "ro")
    try:
        reading = read_all(reader)
        _refuse_damaged(file, reading)
        _refuse_older(file, reading, mark)
    except BaseException:
        reader.close()
        raise
    return reader, reading


def _refuse_damaged(file: Path, reading: JournalReading) -> None:
    if reading.findings:
        first, *more = reading.findings
        others = f" (and {len(more)} more)" if more else ""
        raise JournalDamaged(file, f"damaged: {first}{others}", MEND)


def _refuse_older(file: Path, reading: JournalReading, mark: Mark | None) -> None:
    lack = lacking(reading.seal, mark) if reading.seal is not None else None
    if lack is not None:
        remedy = (
            f"put the newest file back together with its -wal file; or remove {mark_path(file)} to use this "
            "file without the missing transactions"
        )
        raise JournalDamaged(file, lack, remedy)


def _writer(file: Path) -> sqlite3.Connection:
    connection = connect(file, "rw")
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(
                file, f"its file system does not support a write-ahead log ({mode})", "use a local disk"
            )
        connection.execute("PRAGMA synchronous = FULL")
        # The writer thread copies the log into the file itself, after it has answered its callers.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return connection
