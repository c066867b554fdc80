"""What an operator is told to do about an error of the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from holdover.journal._errors import of_disk
from holdover.journal.inspect import inspect
from holdover.journal.journal import JournalError


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOENT, "check the path"),
        (errno.EACCES, "let this user read and write the file"),
        (errno.ENOSPC, "free space"),
        (errno.EIO, "check the file and its disk"),
    ],
)
def test_the_remedy_is_that_of_the_error(number: int, remedy: str) -> None:
    told = str(of_disk(Path("/j"), OSError(number, "made up")))
    assert told.startswith("journal /j: ")
    assert remedy in told


def test_a_journal_that_is_not_there_is_a_wrong_path(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="No such file or directory; check the path"):
        inspect(tmp_path / "none")
