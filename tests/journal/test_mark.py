"""The mark of a journal: a lock that names its owner, and how far it has come."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.journal._mark import Mark, MarkFile, mark_path, opener_of, read_mark
from holdover.journal.journal import Journal, JournalDamaged, JournalError
from tests.journal.support import guest, run

IDENTITY = bytes(range(16))

OTHER = """
import sys
from pathlib import Path
from holdover.journal.journal import Journal, JournalError
try:
    Journal.open(Path(sys.argv[1]))
except JournalError as error:
    print(error)
"""


def test_it_says_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    assert read_mark(file) is None
    mark = MarkFile(file)
    assert mark.read() is None
    mark.write(IDENTITY, 7, sync=True)
    mark.write(IDENTITY, 8)
    assert mark.read() == read_mark(file) == Mark(IDENTITY, 8, os.getpid())
    mark.close()


@pytest.mark.parametrize("data", [b"h", b"holdover journal\n", b"x" * 200])
def test_a_damaged_one_is_named(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "journal"
    mark_path(file).write_bytes(data)
    with pytest.raises(
        JournalDamaged, match=f"its mark {file}.mark is damaged; if you know that {file} is whole"
    ):
        read_mark(file)


def test_the_second_opener_is_told_the_number_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "journal"

    async def test() -> None:
        journal = Journal.open(file)
        await journal.put(guest())
        says = f"journal {file}: process {os.getpid()} has it open; end that agent, or give this agent"
        with pytest.raises(JournalError, match=says):
            Journal.open(file)
        assert opener_of(file) == os.getpid()
        assert other(file).startswith(says)
        await journal.close()
        assert opener_of(file) is None
        assert other(file) == ""

    run(test)


def other(file: Path) -> str:
    """What a process says that opens the journal too."""
    return subprocess.run(
        [sys.executable, "-c", OTHER, file], capture_output=True, text=True, check=True
    ).stdout


def test_looking_at_it_does_not_lose_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    mark = MarkFile(file)
    assert opener_of(file) == 0, "it has not said who it is"
    assert read_mark(file) is None
    with pytest.raises(JournalError, match="another process has it open"):
        MarkFile(file)
    mark.close()
    MarkFile(file).close()
