"""A journal of an earlier Holdover, converted to the schema of this one, in the same file.

Schema 1 has no process identity beside a guest. Schemas 1 and 2 have other names for a guest's machine type
and for the id of a handover, and other names in the body of a handover. Other agents know an open handover
under the old names. Therefore only the Holdover that wrote an open handover can go on with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from holdover.journal._errors import MEND, JournalDamaged, JournalError
from holdover.journal._mark import Mark
from holdover.journal._reading import JournalReading, connect, lacking, read_all, schema_of
from holdover.journal._rows import (
    DEVICE,
    GUEST,
    SEAL,
    STEP,
    UPDATE_SEAL,
    VERSION,
    Row,
    Seal,
    Table,
    row_of,
)
from holdover.journal.records import HandoverRecord, Record

_GUEST_1 = replace(
    GUEST,
    create="CREATE TABLE guest (name TEXT NOT NULL PRIMARY KEY, uuid TEXT, machine TEXT NOT NULL, "
    "origin TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID",
    select="SELECT name, uuid, machine, origin, checksum FROM guest ORDER BY name",
    select_backwards="SELECT name, uuid, machine, origin, checksum FROM guest ORDER BY name DESC",
    columns=5,
)
_GUEST_2 = replace(
    GUEST,
    create="CREATE TABLE guest (name TEXT NOT NULL PRIMARY KEY, uuid TEXT, machine TEXT NOT NULL, "
    "origin TEXT NOT NULL, process TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID",
    select="SELECT name, uuid, machine, origin, process, checksum FROM guest ORDER BY name",
    select_backwards="SELECT name, uuid, machine, origin, process, checksum FROM guest ORDER BY name DESC",
)
_STEP_2 = replace(
    STEP,
    create="CREATE TABLE step (position INTEGER PRIMARY KEY, handover TEXT NOT NULL, guest TEXT NOT NULL, "
    "role TEXT NOT NULL, peer TEXT NOT NULL, state TEXT NOT NULL, open INTEGER NOT NULL, body BLOB NOT NULL, "
    "at REAL NOT NULL, checksum BLOB NOT NULL)",
    select="SELECT position, handover, guest, role, peer, state, open, body, at, checksum FROM step "
    "ORDER BY position",
    select_backwards="SELECT position, handover, guest, role, peer, state, open, body, at, checksum "
    "FROM step ORDER BY position DESC",
)
_NAMES_2: Final[Mapping[str, str]] = {
    "handover": "handover_id",
    "machine": "machine_type",
    "prey": "preempted_key",
}
"""The names in the body of a handover that schemas 1 and 2 have, with those of this schema."""


def _with(guest: Table) -> tuple[Sequence[Table], Mapping[str, str]]:
    tables = (guest, DEVICE, _STEP_2)
    return tables, {**{table.name: table.create for table in tables}, "seal": SEAL}


CONVERTIBLE: Final[Mapping[int, tuple[Sequence[Table], Mapping[str, str]]]] = {
    1: _with(_GUEST_1),
    2: _with(_GUEST_2),
}
"""The schemas that `convert` knows, with their tables."""


def convert(file: Path, mark: Mark | None) -> None:
    """Convert a journal of an earlier schema. The caller holds its lock. Another file stays as it is.

    All of the journal is checked before anything is written. One transaction does it: after a crash the file
    has the old schema or the new one.

    Raises:
        JournalDamaged: The file is not what was written to it.
        JournalError: A handover is open in it: the Holdover that wrote the journal has to end that handover.
        sqlite3.Error: SQLite refuses.
    """
    with file.open("rb") as opened:
        schema = schema_of(opened.read(100))
    if schema is None or schema not in CONVERTIBLE:
        return
    with closing(connect(file, "rw")) as connection:
        if _is_converted(connection):
            return
        tables, statements = CONVERTIBLE[schema]
        reading = read_all(connection, tables, statements)
        seal = _checked(file, reading, mark)
        _require_no_open_handover(file, schema, reading)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        earlier = {table.name: table for table in tables}
        records = [(guest, 0) for guest in reading.guests]
        steps = [(_renamed(step), position) for position, step in reading.steps]
        guests_removed, guests_added = _rewrite(connection, earlier[GUEST.name], GUEST, records)
        steps_removed, steps_added = _rewrite(connection, earlier[STEP.name], STEP, steps)
        after = seal.changed(removed=guests_removed + steps_removed, added=guests_added + steps_added)
        connection.execute(UPDATE_SEAL, after.values())
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")


def _is_converted(connection: sqlite3.Connection) -> bool:
    """Whether a crash came after the conversion, and before its write-ahead log was copied into the file."""
    try:
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError:
        return False  # the check of all of the journal says what is wrong
    return bool(schema == VERSION)


def _checked(file: Path, reading: JournalReading, mark: Mark | None) -> Seal:
    findings = list(reading.findings)
    if reading.seal is not None:
        findings += filter(None, [lacking(reading.seal, mark)])
    if findings or reading.seal is None:
        raise JournalDamaged(file, f"damaged: {findings[0]}", MEND)
    return reading.seal


def _require_no_open_handover(file: Path, schema: int, reading: JournalReading) -> None:
    newest = {(step.handover_id, step.role): step for _, step in reading.steps}
    for step in newest.values():
        if step.open:
            raise JournalError(
                file,
                f"an earlier Holdover wrote it (schema {schema}), and handover {step.handover_id} of guest "
                f"{step.guest} is {step.state} in it",
                "start that Holdover, end the handover (holdover handover finish or rollback), then upgrade",
            )


def _renamed(step: HandoverRecord) -> HandoverRecord:
    try:
        body = _renamed_keys(msgspec.json.decode(step.body))
    except msgspec.DecodeError:
        return step  # an agent reports the body of a closed handover that it cannot read
    return msgspec.structs.replace(step, body=msgspec.json.encode(body))


def _renamed_keys(value: object) -> object:
    match value:
        case dict():
            return {_NAMES_2.get(name, name): _renamed_keys(each) for name, each in value.items()}
        case list():
            return [_renamed_keys(each) for each in value]
        case _:
            return value


def _rewrite(
    connection: sqlite3.Connection, before: Table, table: Table, records: Sequence[tuple[Record, int]]
) -> tuple[list[bytes], list[bytes]]:
    """Create a table of this schema in place of the earlier one. Returns the old and the new checksums."""
    removed = [bytes(row[-1]) for row in connection.execute(before.select)]
    rows: list[Row] = [row_of(record, position) for record, position in records]
    connection.execute(f"DROP TABLE {table.name}")
    connection.execute(table.create)
    for row in rows:
        connection.execute(table.upsert(1), (*row.values, row.checksum))
    return removed, [row.checksum for row in rows]
