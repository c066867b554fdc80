"""A disk that takes no more: every caller is told, nothing is acknowledged, and it goes on once it can.

A limit on the size of files (RLIMIT_FSIZE, in a process of its own) stands for the full disk.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.journal.journal import Journal, JournalError
from tests.journal.support import device, run


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def fill_and_go_on(file: Path) -> None:
    """What the process of its own does."""
    journal = Journal.open(file)
    await journal.put(device(designator="first"))
    limit(200_000)
    acknowledged = {"first"}
    for batch in range(20):
        names = [f"{batch}-{number}" for number in range(5)]
        putting = (journal.put(device(designator=name, body=b"x" * 3000)) for name in names)
        outcomes = await asyncio.gather(*putting, return_exceptions=True)
        acknowledged.update(name for name, outcome in zip(names, outcomes, strict=True) if outcome is None)
        failures = [outcome for outcome in outcomes if outcome is not None]
        if failures:
            assert all(type(failure) is JournalError for failure in failures)
            assert str(failures[0]).endswith("and free space"), str(failures[0])
        # on a slow machine the five may be two transactions, and the second may end in another way
        assert str(journal.failed) == str(outcomes[-1])
    assert journal.failed is not None
    assert 1 < len(acknowledged) < 100
    assert {kept.designator for kept in journal.load().devices} == acknowledged
    limit(resource.RLIM_INFINITY)
    await journal.put(device(designator="last"))
    assert journal.failed is None
    await journal.close()
    again = Journal.open(file)
    assert {kept.designator for kept in again.load().devices} == acknowledged | {"last"}
    await again.close()


async def open_where_there_is_no_room(file: Path) -> None:
    """What another one does."""
    limit(4096)
    with pytest.raises(JournalError, match="free space"):
        Journal.open(file)
    limit(resource.RLIM_INFINITY)
    await Journal.open(file).close()


@pytest.mark.parametrize(
    "what", [fill_and_go_on, open_where_there_is_no_room], ids=lambda what: what.__name__
)
def test_in_a_process_of_its_own(what: object, tmp_path: Path) -> None:
    name = getattr(what, "__name__", "")
    done = subprocess.run(
        [sys.executable, "-m", "tests.journal.test_journal_on_a_failing_disk", name, tmp_path / "journal"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    tests = {test.__name__: test for test in (fill_and_go_on, open_where_there_is_no_room)}
    run(lambda: tests[sys.argv[1]](Path(sys.argv[2])))
