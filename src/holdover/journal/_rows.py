"""The tables of a journal, and the conversion of records to rows and of rows to records.

Each row carries a checksum of all its values. Each row stands in one place of the file, because the tables
are WITHOUT ROWID or have the rowid as their key: so no index can disagree with a row. The seal is one row
with the number of all rows and the sum of their checksums: it shows rows that are missing, and old rows that
have come back.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import msgspec

from holdover.journal.records import DeviceRecord, GuestRecord, HandoverRecord, Record

Value = str | bytes | int | float | None

APPLICATION = int.from_bytes(b"HLDJ")
"""PRAGMA application_id of every journal."""

VERSION = 3
"""PRAGMA user_version: the schema below."""

_DIGEST = 16
"""The length of a row's checksum, in bytes."""

SUM = 1 << 128
"""The modulus of the sum of the rows' checksums."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its first ``keys`` columns are the primary key, its last is the checksum."""

    name: str
    keys: int
    create: str
    select: str
    select_backwards: str
    checksum: str
    put: str
    columns: int
    match: str

    def upsert(self, rows: int) -> str:
        """The statement that inserts or replaces this number of rows."""
        return f"{self.put} {_values_of(rows, self.columns)}"

    def checksums(self, rows: int) -> str:
        """The statement that finds the checksums of this number of rows by their keys, for `checksums_of`."""
        wanted = _values_of(rows, self.keys)
        # CROSS JOIN makes SQLite go through the few wanted keys, and look up each one in the table.
        return f"{_CHECKSUMS} ({wanted}) AS wanted CROSS JOIN {self.name} ON {self.match}"


_CHECKSUMS = "SELECT group_concat(hex(checksum), '') FROM"


def _values_of(rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([row] * rows)}"


def checksums_of(found: str | None) -> list[bytes]:
    """The checksums in the answer to `Table.checksums`: those of the rows that exist already."""
    digests = bytes.fromhex(found or "")
    return [digests[at : at + _DIGEST] for at in range(0, len(digests), _DIGEST)]


GUEST = Table(
    name="guest",
    keys=1,
    create="CREATE TABLE guest (name TEXT NOT NULL PRIMARY KEY, uuid TEXT, machine_type TEXT NOT NULL, "
    "origin TEXT NOT NULL, process TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID",
    select="SELECT name, uuid, machine_type, origin, process, checksum FROM guest ORDER BY name",
    select_backwards="SELECT name, uuid, machine_type, origin, process, checksum FROM guest "
    "ORDER BY name DESC",
    checksum="SELECT checksum FROM guest WHERE name = ?",
    put="REPLACE INTO guest",
    columns=6,
    match="name = wanted.column1",
)
DEVICE = Table(
    name="device",
    keys=2,
    create="CREATE TABLE device (guest TEXT NOT NULL, designator TEXT NOT NULL, drive TEXT NOT NULL, "
    "body BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (guest, designator)) WITHOUT ROWID",
    select="SELECT guest, designator, drive, body, checksum FROM device ORDER BY guest, designator",
    select_backwards="SELECT guest, designator, drive, body, checksum FROM device "
    "ORDER BY guest DESC, designator DESC",
    checksum="SELECT checksum FROM device WHERE guest = ? AND designator = ?",
    put="REPLACE INTO device",
    columns=5,
    match="guest = wanted.column1 AND designator = wanted.column2",
)
STEP = Table(
    name="step",
    keys=1,
    create="CREATE TABLE step (position INTEGER PRIMARY KEY, handover_id TEXT NOT NULL, guest TEXT NOT NULL, "
    "role TEXT NOT NULL, peer TEXT NOT NULL, state TEXT NOT NULL, open INTEGER NOT NULL, body BLOB NOT NULL, "
    "at REAL NOT NULL, checksum BLOB NOT NULL)",
    select="SELECT position, handover_id, guest, role, peer, state, open, body, at, checksum FROM step "
    "ORDER BY position",
    select_backwards="SELECT position, handover_id, guest, role, peer, state, open, body, at, checksum "
    "FROM step ORDER BY position DESC",
    checksum="SELECT checksum FROM step WHERE position = ?",
    put="INSERT INTO step",
    columns=10,
    match="position = wanted.column1",
)
"""The key is the position, so that new states of all handovers stand together at the end of the table."""
SELECT_STEP = (
    "SELECT position, handover_id, guest, role, peer, state, open, body, at, checksum FROM step "
    "WHERE position = ?"
)
TABLES = (GUEST, DEVICE, STEP)

SEAL = (
    "CREATE TABLE seal (one INTEGER PRIMARY KEY, identity BLOB NOT NULL, sequence INTEGER NOT NULL, "
    "rows INTEGER NOT NULL, total BLOB NOT NULL, checksum BLOB NOT NULL)"
)
SELECT_SEAL = "SELECT identity, sequence, rows, total, checksum FROM seal"
UPDATE_SEAL = "REPLACE INTO seal VALUES (1, ?, ?, ?, ?, ?)"

SCHEMA = {**{table.name: table.create for table in TABLES}, "seal": SEAL}
"""The statement that creates each table, by the table's name, as SQLite stores it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is stored: its values, and their checksum (16 bytes)."""

    table: Table
    values: tuple[Value, ...]
    checksum: bytes

    @property
    def state(self) -> tuple[int, str, str] | None:
        """Position, id and role of a handover's state; None for other records."""
        if self.table is not STEP:
            return None
        position, handover_id, _, role, *_ = self.values
        if isinstance(position, int) and isinstance(handover_id, str) and isinstance(role, str):
            return position, handover_id, role
        return None

    @property
    def key(self) -> tuple[Value, ...]:
        """The values of the primary key."""
        return self.values[: self.table.keys]


def checksum(table: str, values: tuple[Value, ...]) -> bytes:
    """The checksum (16 bytes) of a row: of its values, their types and the name of its table.

    Raises:
        UnicodeEncodeError: A text is not valid Unicode (it has a lone surrogate).
    """
    return hashlib.blake2b(msgspec.msgpack.encode((table, values)), digest_size=_DIGEST).digest()


def row_of(record: Record, position: int) -> Row:
    """The row of a record. ``position`` orders the states of handovers; other records do not use it.

    Raises:
        ValueError: A text is not valid Unicode, or a time is not a finite number.
    """
    table, values = _values(record, position)
    return Row(table, values, checksum(table.name, values))


def _values(record: Record, position: int) -> tuple[Table, tuple[Value, ...]]:
    match record:
        case GuestRecord():
            about_guest = (record.name, record.uuid, record.machine_type, record.origin)
            return GUEST, (*about_guest, record.process)
        case DeviceRecord():
            return DEVICE, (record.guest, record.designator, record.drive, bytes(record.body))
        case HandoverRecord():
            if not math.isfinite(record.at):
                raise ValueError(f"handover {record.handover_id}: at = {record.at} is not a time")
            # SQLite stores -0.0 as 0.0, and integers of this column as floats.
            at = float(record.at) + 0.0
            about = (record.guest, record.role, record.peer, record.state, int(record.open))
            return STEP, (position, record.handover_id, *about, bytes(record.body), at)


def record_of(table: Table, values: tuple[Value, ...]) -> Record:
    """The record of a row whose checksum is right.

    Raises:
        msgspec.ValidationError: A value does not have the type of its field.
    """
    if table.name == GUEST.name:
        # An earlier schema has fewer columns. Missing fields have their defaults.
        return msgspec.convert(dict(zip(GuestRecord.__struct_fields__, values, strict=False)), GuestRecord)
    if table is DEVICE:
        return msgspec.convert(dict(zip(DeviceRecord.__struct_fields__, values, strict=True)), DeviceRecord)
    return step_of(values)


def step_of(values: tuple[Value, ...]) -> HandoverRecord:
    """The record of a row of the table ``step``.

    Raises:
        msgspec.ValidationError: A value does not have the type of its field.
    """
    _, *about, is_open, body, at = values
    fields = zip(HandoverRecord.__struct_fields__, (*about, is_open == 1, body, at), strict=True)
    return msgspec.convert(dict(fields), HandoverRecord)


@dataclass(frozen=True, slots=True)
class Seal:
    """The number and the sum of all rows, by which a reader sees that the file is complete.

    ``identity`` is a random value that is drawn when the file is created. ``sequence`` counts transactions.
    ``total`` is the sum of the checksums of all ``rows`` rows, modulo 2**128.
    """

    identity: bytes
    sequence: int = 0
    rows: int = 0
    total: int = 0

    def values(self) -> tuple[Value, ...]:
        """The values of the seal's row; the last is their checksum."""
        values = (self.identity, self.sequence, self.rows, self.total.to_bytes(16))
        return (*values, checksum("seal", values))

    def changed(self, *, removed: list[bytes], added: list[bytes]) -> Seal:
        """The seal of the next transaction, which removes and adds rows with these checksums."""
        total = self.total - sum(map(int.from_bytes, removed)) + sum(map(int.from_bytes, added))
        rows = self.rows - len(removed) + len(added)
        return replace(self, sequence=self.sequence + 1, rows=rows, total=total % SUM)


def seal_of(row: tuple[Value, ...]) -> Seal | None:
    """The seal in a row, or None when the checksum of the row is wrong."""
    identity, sequence, rows, total, found = row
    if found != checksum("seal", row[:-1]):
        return None
    if not (isinstance(identity, bytes) and isinstance(sequence, int) and isinstance(rows, int)):
        return None
    return Seal(identity, sequence, rows, int.from_bytes(total)) if isinstance(total, bytes) else None
