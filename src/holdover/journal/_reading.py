"""All of a journal, read with every check there is: what is whole, and what is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
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

__all__ = ["Reading", "connect", "foreign", "lacking", "read_all", "read_steps"]

_MAGIC = b"SQLite format 3\0"
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What damage raises; the second, where a name in the schema or in an error's own text is hit."""
_CHECKS = 20
"""Findings of SQLite's own check that are reported; damage of one page can make thousands."""


@dataclass(slots=True)
class Reading:
    """What could be read, and each thing that is wrong, in words."""

    guests: list[GuestRecord] = field(default_factory=list)
    devices: list[DeviceRecord] = field(default_factory=list)
    steps: list[tuple[int, HandoverRecord]] = field(default_factory=list)
    """States of handovers with their positions, oldest first."""
    seal: Seal | None = None
    findings: list[str] = field(default_factory=list)


def connect(file: Path, mode: str) -> sqlite3.Connection:
    """A connection whose transactions are begun by hand, usable from any one thread at a time.

    ``mode`` is SQLite's: ``ro`` or ``rw``.

    Raises:
        sqlite3.Error: SQLite refuses.
    """
    connection = sqlite3.connect(
        f"{file.as_uri()}?mode={mode}", uri=True, timeout=1, isolation_level=None, check_same_thread=False
    )
    # A text that damage has made none is read all the same; its checksum is wrong then.
    connection.text_factory = lambda data: data.decode(errors="replace")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def foreign(head: bytes) -> str | None:
    """Why a file with these first 100 bytes is none that this Holdover can read; None where it is one."""
    if not head.startswith(_MAGIC):
        return "it is no journal of Holdover, or its head is damaged"
    version, application = int.from_bytes(head[60:64]), int.from_bytes(head[68:72])
    if application != APPLICATION:
        return f"it is no journal of Holdover (application_id {application:#x}, not {APPLICATION:#x})"
    if version > VERSION:
        return f"it was written by a newer Holdover (schema {version}, this one knows {VERSION})"
    if version < VERSION:
        return f"its schema is {version}, this Holdover knows {VERSION} alone"
    return None


def read_all(connection: sqlite3.Connection) -> Reading:
    """Read everything, as it stood at one moment. Raises nothing; what is wrong is among the findings."""
    reading = Reading()
    try:
        connection.execute("BEGIN")
        reading.findings += _own_check(connection)
        reading.findings += _schema(connection)
    except _UNREADABLE as error:
        reading.findings.append(str(error))
    rows, total = 0, 0
    for table in TABLES:
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


def _schema(connection: sqlite3.Connection) -> Iterator[str]:
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())
    for name in sorted(SCHEMA.keys() | found.keys(), key=str):
        if found.get(name) != SCHEMA.get(name):
            yield f"table {name} is not as Holdover made it"


def _rows(
    connection: sqlite3.Connection, table: Table, findings: list[str]
) -> Iterator[tuple[tuple[Value, ...], bytes]]:
    """Rows whose checksum is right; where the way is broken, also those that the other end leads to."""
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


def _keep(reading: Reading, table: Table, values: tuple[Value, ...]) -> None:
    record = _record(reading, table, values)
    match record:
        case GuestRecord():
            reading.guests.append(record)
        case DeviceRecord():
            reading.devices.append(record)
        case HandoverRecord():
            position = values[0]
            reading.steps.append((position if isinstance(position, int) else 0, record))


def _record(reading: Reading, table: Table, values: tuple[Value, ...]) -> Record | None:
    try:
        return record_of(table, values)
    except (msgspec.ValidationError, ValueError) as error:
        reading.findings.append(f"table {table.name}: row {_name(values[: table.keys])}: {error}")
        return None


def _check_seal(connection: sqlite3.Connection, reading: Reading, rows: int, total: int) -> None:
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
        reading.findings.append("some rows are not the newest that were written")


def lacking(seal: Seal, mark: Mark | None) -> str | None:
    """What a whole journal lacks of what its mark says was acknowledged; None for nothing."""
    if mark is None or (mark.identity == seal.identity and mark.sequence <= seal.sequence):
        return None
    if mark.identity != seal.identity:
        return "another journal stood here before"
    return (
        f"transactions {seal.sequence + 1} to {mark.sequence} were acknowledged and are missing: its "
        "write-ahead log is lost or damaged, or this is an old copy"
    )


def read_steps(connection: sqlite3.Connection, positions: Iterable[int]) -> Iterator[HandoverRecord]:
    """The states at these positions, without those that have been let go of meanwhile.

    Raises:
        sqlite3.Error: They cannot be read.
        ValueError: One is not what was written.
    """
    for position in positions:
        for row in connection.execute(SELECT_STEP, (position,)).fetchall():
            if row[-1] != checksum(STEP.name, row[:-1]):
                raise ValueError(f"table step: row {position} has a wrong checksum")
            yield step_of(row[:-1])
