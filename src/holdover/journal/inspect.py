"""Reads a journal that may be damaged or in use by an agent, and changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from holdover.journal._errors import JournalDamaged, JournalError, of_disk
from holdover.journal._mark import Mark, opener_of, read_mark
from holdover.journal._reading import JournalReading, connect, foreign, lacking, read_all
from holdover.journal.records import HandoverRecord, JournalContents, contents_of


@dataclass(frozen=True, slots=True)
class Inspection:
    """The readable records of a journal, and a sentence for each thing that is wrong.

    - ``steps``: the states of all handovers, oldest first;
    - ``sequence``: the journal's last transaction; None when it is not readable;
    - ``opener``: the number of the process that has the journal open; 0 when the number is not known, None
      when no process has it open;
    - ``findings``: what is wrong.
    """

    file: Path
    contents: JournalContents
    steps: tuple[HandoverRecord, ...]
    sequence: int | None
    opener: int | None
    findings: tuple[str, ...]


def inspect(file: Path) -> Inspection:
    """Read everything that is readable in a journal.

    Raises:
        JournalError: The file does not exist, cannot be read, or is not a journal that this Holdover reads.
    """
    file = file.resolve()
    try:
        with file.open("rb") as opened:
            head = opened.read(100)
        if head:
            reason = foreign(head)
            if reason is not None:
                remedy = "give the path of another file, or use the Holdover that wrote this one"
                raise JournalError(file, reason, remedy)
        return _inspect(file, empty=not head)
    except (sqlite3.Error, OSError) as error:
        raise of_disk(file, error) from error


def _inspect(file: Path, *, empty: bool) -> Inspection:
    findings = []
    mark = None
    try:
        # Read the mark before the file: otherwise a transaction of this moment would seem to be missing.
        mark = read_mark(file)
    except JournalDamaged as error:
        findings.append(error.what)
    opener = opener_of(file)
    if empty:
        reading = JournalReading(findings=["it is empty"])
    else:
        reading = _read_in_use(file) if opener is not None else _read_copy(file)
    return _inspection(file, reading, opener, [*findings, *reading.findings], mark)


def _inspection(
    file: Path, reading: JournalReading, opener: int | None, findings: list[str], mark: Mark | None
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


def _read_in_use(file: Path) -> JournalReading:
    connection = connect(file, "ro")
    try:
        return read_all(connection)
    finally:
        connection.close()


def _read_copy(file: Path) -> JournalReading:
    """Read a copy, because SQLite creates files beside a file with a write-ahead log even to read it."""
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
