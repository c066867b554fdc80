"""A journal that an earlier Holdover wrote is converted when an agent opens it, or refused by name."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from holdover.journal._conversion import convert
from holdover.journal._mark import MarkFile
from holdover.journal._reading import schema_of
from holdover.journal.inspect import inspect
from holdover.journal.journal import Journal, JournalDamaged, JournalError
from holdover.journal.records import GuestRecord

WRITTEN = Path(__file__).parent
"""Journals as the Holdovers of 23 and 27 November 2026 wrote them, each in a folder named by its schema, with
their marks."""

BODIES = {
    1: [b"{}", b"{}"],
    2: [b'{"luns":[{"designator":"naa.600140500000000a","preempted_key":%d}]}' % key for key in (0, 66)],
}
"""The bodies of the closed handover, by schema, with the names of this Holdover."""

SCHEMAS = pytest.mark.parametrize("schema", [1, 2])


def copy_of(name: str, schema: int, folder: Path) -> Path:
    """A journal of a schema with all handovers closed ("closed"), or with one open ("open")."""
    for file in (WRITTEN / f"schema{schema}").glob(f"{name}*"):
        shutil.copy(file, folder / file.name)
    return folder / name


@SCHEMAS
def test_guests_devices_and_handovers_are_kept(schema: int, tmp_path: Path) -> None:
    async def test() -> None:
        file = copy_of("closed", schema, tmp_path)
        journal = Journal.open(file)
        contents = journal.load()
        assert [guest.name for guest in contents.guests] == ["db1", "db2"]
        assert [guest.process for guest in contents.guests] == [{1: "", 2: '{"uid":107}'}[schema], ""]
        assert [device.designator for device in contents.devices] == ["naa.600140500000000a"]
        assert [step.state for step in journal.steps("h1")] == ["preparing", "stayed"]
        assert [step.body for step in journal.steps("h1")] == BODIES[schema]
        await journal.put(
            GuestRecord(name="db1", uuid=None, machine_type="pc-q35-7.2", origin="attached", process="{}")
        )
        await journal.close()
        again = Journal.open(file)
        assert [guest.process for guest in again.load().guests] == ["{}", ""]
        await again.close()
        assert not inspect(file).findings

    asyncio.run(test())


@SCHEMAS
def test_an_open_handover_is_for_the_holdover_that_began_it(schema: int, tmp_path: Path) -> None:
    file = copy_of("open", schema, tmp_path)
    before = file.read_bytes()
    with pytest.raises(
        JournalError, match=rf"schema {schema}\), and handover h1 of guest db1 is (stayed|committing)"
    ) as refused:
        Journal.open(file)
    assert "then upgrade" in str(refused.value)
    assert file.read_bytes() == before


@SCHEMAS
def test_damage_is_found_before_the_conversion(schema: int, tmp_path: Path) -> None:
    file = copy_of("closed", schema, tmp_path)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE guest SET machine = 'pc' WHERE name = 'db1'")
    connection.close()
    with pytest.raises(JournalDamaged, match="wrong checksum"):
        Journal.open(file)
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema,)
    connection.close()


@SCHEMAS
def test_an_old_copy_is_refused_and_not_converted(schema: int, tmp_path: Path) -> None:
    file = copy_of("closed", schema, tmp_path)
    mark = file.with_name("closed.mark")
    acknowledged = mark.read_bytes()
    with sqlite3.connect(file) as connection:
        (sequence,) = connection.execute("SELECT sequence FROM seal").fetchone()
    connection.close()
    mark_of_later = tmp_path / "later"
    shutil.copy(file, mark_of_later)
    assert f"{sequence:020d}".encode() in acknowledged
    converted = Journal.open(file)  # the mark is now ahead of the copy
    asyncio.run(converted.close())
    shutil.copy(mark_of_later, file)
    with pytest.raises(JournalDamaged, match="acknowledged and are missing"):
        Journal.open(file)


@SCHEMAS
def test_a_crash_right_after_the_conversion_loses_nothing(schema: int, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    file = copy_of("closed", schema, before)
    reader = sqlite3.connect(file)  # while it is here, the write-ahead log is not copied into the file
    reader.execute("SELECT count(*) FROM guest").fetchone()
    convert(file, MarkFile(file).read())
    assert schema_of(file.read_bytes()[:100]) == schema
    shutil.copytree(before, after)
    reader.close()
    journal = Journal.open(after / "closed")
    assert [guest.name for guest in journal.load().guests] == ["db1", "db2"]
    asyncio.run(journal.close())
    assert not inspect(after / "closed").findings
