"""A look into a journal changes nothing, and finds what is readable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdover.journal._store import Store
from holdover.journal.inspect import inspect
from holdover.journal.journal import Journal, JournalError
from tests.journal.support import device, guest, run, step

GUESTS = tuple(guest(f"g{number:03d}") for number in range(200))
STEPS = tuple(step(f"h{number:03d}", state) for number in range(200) for state in ("one", "two"))


def fill(file: Path) -> None:
    async def test() -> None:
        journal = Journal.open(file)
        await journal.put(*GUESTS, device("g000"), *STEPS)
        await journal.close()

    run(test)


def test_a_whole_journal(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    fill(file)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    seen = inspect(file)
    assert (seen.findings, seen.sequence, seen.opener) == ((), 2, None)
    assert seen.contents.guests == GUESTS
    assert seen.contents.handovers == STEPS[1::2]
    assert seen.steps == STEPS
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_in_use(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    store = Store.open(file)
    seen = inspect(file)
    assert (seen.findings, seen.sequence, seen.opener) == ((), 1, os.getpid())
    store.commit(())
    assert inspect(file).sequence == 2
    store.close()


def test_one_whose_process_was_killed_is_left_as_it_is(tmp_path: Path) -> None:
    file, copy = tmp_path / "journal", tmp_path / "copy"
    copy.mkdir()
    store = Store.open(file)
    for path in (file, tmp_path / "journal-wal", tmp_path / "journal.mark"):
        (copy / path.name).write_bytes(path.read_bytes())
    store.close()
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    seen = inspect(copy / "journal")
    assert (seen.findings, seen.sequence, seen.opener) == ((), 1, None)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_a_lost_page_leaves_the_rest_readable(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    fill(file)
    data = bytearray(file.read_bytes())
    page = data.index(b"g100pc-q35") // 4096
    data[page * 4096 : page * 4096 + 4096] = bytes(4096)
    file.write_bytes(data)
    seen = inspect(file)
    names = [found.name for found in seen.contents.guests]
    assert {"g000", "g199"} <= set(names)
    assert "g100" not in names
    assert names == sorted(names)
    assert seen.steps == STEPS
    assert any("malformed" in finding for finding in seen.findings)


def test_a_row_that_is_wrong_is_left_out_and_named(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    fill(file)
    file.write_bytes(file.read_bytes().replace(b"g100pc-q35", b"g100pc-q36"))
    seen = inspect(file)
    assert [found for found in GUESTS if found not in seen.contents.guests] == [GUESTS[100]]
    assert seen.findings == (
        "table guest: row g100 has a wrong checksum",
        "601 rows were written and 600 are readable",
    )


def test_a_lost_log_and_a_damaged_mark_are_findings(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    fill(file)
    old = file.read_bytes()
    fill(file)
    file.write_bytes(old)
    (finding,) = inspect(file).findings
    assert finding.startswith("transactions 3 to 4 were acknowledged and are missing")
    (tmp_path / "journal.mark").write_bytes(b"?")
    assert inspect(file).findings == (f"its mark {file}.mark is damaged",)


def test_an_empty_file_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.touch()
    assert inspect(file).findings == ("it is empty",)


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    with pytest.raises(JournalError, match="No such file"):
        inspect(file)
    file.write_text("something else")
    with pytest.raises(JournalError, match="it is not a journal of Holdover"):
        inspect(file)
