"""Reads and checks a whole journal: its readable records, and a finding for each thing that is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from holdover.journal._mark import Mark
from holdover.journal._rows import (
    APPLICATION,
    SCHEMA,
    SELECT_SEAL,
    SELECT_STEP,
    STEP,
    SUM,
    TABLES,
    VERSION,
    Seal,
    Table,
    Value,
    checksum,
    record_of,
    seal_of,
    step_of,
)
from holdover.journal.records import DeviceRecord, GuestRecord, HandoverRecord, Record

_MAGIC = b"SQLite format 3\0"
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file raises. UnicodeDecodeError: the damage is in a name of the schema, or in the
text of an error."""
_CHECKS = 20
"""The most findings that SQLite's own check reports; the damage of one page can cause thousands."""


@dataclass(slots=True)
class JournalReading:
    """The records that could be read, and a sentence for each thing that is wrong."""

    guests: list[GuestRecord] = field(default_factory=list)
    devices: list[DeviceRecord] = field(default_factory=list)
    steps: list[tuple[int, HandoverRecord]] = field(default_factory=list)
    """States of handovers with their positions, oldest first."""
    seal: Seal | None = None
    findings: list[str] = field(default_factory=list)


def connect(file: Path, mode: str) -> sqlite3.Connection:
    """A connection to a journal; the caller begins each transaction itself.

    Any thread may use the connection, but only one thread at a time. ``mode`` is SQLite's: ``ro`` or ``rw``.

    Raises:
        sqlite3.Error: SQLite refuses.
    """
    connection = sqlite3.connect(
        f"{file.as_uri()}?mode={mode}", uri=True, timeout=1, isolation_level=None, check_same_thread=False
    )
    # Read a text even when it is not valid UTF-8: the checksum of its row then shows the damage.
    connection.text_factory = lambda data: data.decode(errors="replace")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def foreign(head: bytes) -> str | None:
    """Why this Holdover cannot read a file that begins with these 100 bytes; None when it can."""
    if not head.startswith(_MAGIC):
        return "it is not a journal of Holdover, or its first bytes are damaged"
    version, application = int.from_bytes(head[60:64]), int.from_bytes(head[68:72])
    if application != APPLICATION:
        return f"it is not a journal of Holdover (application_id is {application:#x}, not {APPLICATION:#x})"
    if version > VERSION:
        return f"a newer Holdover wrote it (its schema is {version}, this Holdover reads only {VERSION})"
    if version < VERSION:
        return (
            f"an earlier Holdover wrote it (schema {version}); an agent of this Holdover converts it to "
            f"schema {VERSION} when it opens the journal"
        )
    return None


def schema_of(head: bytes) -> int | None:
    """The schema of a journal whose file has these first 100 bytes; None where the file is no journal."""
    is_journal = head.startswith(_MAGIC) and int.from_bytes(head[68:72]) == APPLICATION
    return int.from_bytes(head[60:64]) if is_journal else None


def read_all(
    connection: sqlite3.Connection,
    tables: Sequence[Table] = TABLES,
    schema: Mapping[str, str] = SCHEMA,
) -> JournalReading:
    """Everything in a journal, as of one moment. Raises nothing: each thing that is wrong is a finding."""
    reading = JournalReading()
    try:
        connection.execute("BEGIN")
        reading.findings += _own_check(connection)
        reading.findings += _schema(connection, schema)
    except _UNREADABLE as error:
        reading.findings.append(str(error))
    rows, total = 0, 0
    for table in tables:
        for values, digest in _rows(connection, table, reading.findings):
            rows += 1
            total += int.from_bytes(digest)
            _keep(reading, table, values)
    reading.steps.sort(key=lambda step: step[0])
    _check_seal(connection, reading, rows, total)
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    return reading


def _own_check(connection: sqlite3.Connection) -> Iterator[str]:
    for (line,) in connection.execute(f"PRAGMA quick_check({_CHECKS})"):
        if line != "ok":
            yield from (part for part in str(line).splitlines() if not part.startswith("***"))


def _schema(connection: sqlite3.Connection, schema: Mapping[str, str]) -> Iterator[str]:
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())
    for name in sorted(schema.keys() | found.keys(), key=str):
        if found.get(name) != schema.get(name):
            yield f"table {name} differs from the table that Holdover creates"


def _rows(
    connection: sqlite3.Connection, table: Table, findings: list[str]
) -> Iterator[tuple[tuple[Value, ...], bytes]]:
    """The rows whose checksum is right. When reading forward fails, read backward too, from the other end."""
    seen: set[tuple[Value, ...]] = set()
    broken = False
    for select in (table.select, table.select_backwards):
        try:
            for row in connection.execute(select):
                values, digest = row[:-1], row[-1]
                key = values[: table.keys]
                if key in seen:
                    continue
                seen.add(key)
                if digest == checksum(table.name, values):
                    yield values, digest
                else:
                    findings.append(f"table {table.name}: row {_name(key)} has a wrong checksum")
        except _UNREADABLE as error:
            if not broken:
                findings.append(f"table {table.name}: {error}")
            broken = True
        if not broken:
            return


def _name(key: tuple[Value, ...]) -> str:
    return "/".join(str(part) for part in key)


def _keep(reading: JournalReading, table: Table, values: tuple[Value, ...]) -> None:
    record = _record(reading, table, values)
    match record:
        case GuestRecord():
            reading.guests.append(record)
        case DeviceRecord():
            reading.devices.append(record)
        case HandoverRecord():
            position = values[0]
            reading.steps.append((position if isinstance(position, int) else 0, record))


def _record(reading: JournalReading, table: Table, values: tuple[Value, ...]) -> Record | None:
    try:
        return record_of(table, values)
    except (msgspec.ValidationError, ValueError) as error:
        reading.findings.append(f"table {table.name}: row {_name(values[: table.keys])}: {error}")
        return None


def _check_seal(connection: sqlite3.Connection, reading: JournalReading, rows: int, total: int) -> None:
    try:
        found = connection.execute(SELECT_SEAL).fetchall()
    except _UNREADABLE as error:
        reading.findings.append(f"table seal: {error}")
        return
    seal = seal_of(found[0]) if len(found) == 1 else None
    if seal is None:
        reading.findings.append("its seal is missing or damaged")
        return
    reading.seal = seal
    if seal.rows != rows:
        reading.findings.append(f"{seal.rows} rows were written and {rows} are readable")
    elif seal.total != total % SUM:
        reading.findings.append("some rows are older than the newest that were written")


def lacking(seal: Seal, mark: Mark | None) -> str | None:
    """The acknowledged transactions, by the mark, that a journal does not have; None when it has them all."""
    if mark is None or (mark.identity == seal.identity and mark.sequence <= seal.sequence):
        return None
    if mark.identity != seal.identity:
        return "its mark belongs to another journal"
    return (
        f"transactions {seal.sequence + 1} to {mark.sequence} were acknowledged and are missing: its "
        "write-ahead log is lost or damaged, or this file is an old copy"
    )


def read_steps(connection: sqlite3.Connection, positions: Iterable[int]) -> Iterator[HandoverRecord]:
    """The states at these positions, without states that were removed in the meantime.

    Raises:
        sqlite3.Error: The states cannot be read.
        ValueError: A state differs from what was written.
    """
    for position in positions:
        for row in connection.execute(SELECT_STEP, (position,)).fetchall():
            if row[-1] != checksum(STEP.name, row[:-1]):
                raise ValueError(f"table step: row {position} has a wrong checksum")
            yield step_of(row[:-1])
