"""A look into a journal that changes nothing: whole, damaged, or in use by an agent."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from holdover.journal._errors import JournalDamaged, JournalError, of_disk
from holdover.journal._mark import Mark, opener_of, read_mark
from holdover.journal._reading import Reading, connect, foreign, lacking, read_all
from holdover.journal.records import HandoverRecord, JournalContents, contents_of

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is readable of a journal, and each thing that is wrong with it, in words.

    ``steps`` are the states of all handovers, oldest first; ``sequence`` is its last transaction, None where
    that is not readable; ``opener`` the process that has it open, 0 where its number is not known, None for
    none.
    """

    file: Path
    contents: JournalContents
    steps: tuple[HandoverRecord, ...]
    sequence: int | None
    opener: int | None
    findings: tuple[str, ...]


def inspect(file: Path) -> Inspection:
    """Read all that can be read of a journal.

    Raises:
        JournalError: It is not there, cannot be read, or is no journal that this Holdover knows.
    """
    file = file.resolve()
    try:
        with file.open("rb") as opened:
            head = opened.read(100)
        if head:
            reason = foreign(head)
            if reason is not None:
                raise JournalError(file, reason, "name another file, or use the Holdover that wrote it")
        return _inspect(file, empty=not head)
    except (sqlite3.Error, OSError) as error:
        raise of_disk(file, error) from error


def _inspect(file: Path, *, empty: bool) -> Inspection:
    findings = []
    mark = None
    try:
        # Before the file: what is acknowledged meanwhile must not seem to be missing.
        mark = read_mark(file)
    except JournalDamaged as error:
        findings.append(error.what)
    opener = opener_of(file)
    if empty:
        reading = Reading(findings=["it is empty"])
    else:
        reading = _read_in_use(file) if opener is not None else _read_copy(file)
    return _inspection(file, reading, opener, [*findings, *reading.findings], mark)


def _inspection(
    file: Path, reading: Reading, opener: int | None, findings: list[str], mark: Mark | None
) -> Inspection:
    lack = lacking(reading.seal, mark) if reading.seal is not None else None
    if lack is not None:
        findings.append(lack)
    steps = [step for _, step in reading.steps]
    return Inspection(
        file=file,
        contents=contents_of(reading.guests, reading.devices, steps),
        steps=tuple(steps),
        sequence=reading.seal.sequence if reading.seal is not None else None,
        opener=opener,
        findings=tuple(findings),
    )


def _read_in_use(file: Path) -> Reading:
    connection = connect(file, "ro")
    try:
        return read_all(connection)
    finally:
        connection.close()


def _read_copy(file: Path) -> Reading:
    """Read a copy: even to read, SQLite makes files beside one that has a write-ahead log."""
    log = file.with_name(file.name + "-wal")
    with tempfile.TemporaryDirectory(prefix="holdover-journal-") as folder:
        copy = Path(folder, "journal")
        shutil.copyfile(file, copy)
        if log.exists():
            shutil.copyfile(log, copy.with_name("journal-wal"))
        connection = connect(copy, "rw")
        try:
            return read_all(connection)
        finally:
            connection.close()
