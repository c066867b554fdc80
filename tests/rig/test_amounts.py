"""What a test does in `make test` and in `make test-long`, and that tests are found without xdist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_TEST = """
import pytest
from tests.rig.amounts import amount

def test_number(): assert amount(3, 5) == {number}

@pytest.mark.long
def test_long(): pass

@pytest.mark.xdist_group("one")
def test_grouped(): pass
"""
_GROUP = """
import pytest

@pytest.mark.parametrize("number", range(8))
@pytest.mark.xdist_group("one")
def test_grouped(number): pass

@pytest.mark.parametrize("number", range(8))
def test_alone(number): pass
"""
_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("options", "number", "outcome"),
    [((), 3, "2 passed, 1 deselected"), (("--long",), 5, "3 passed")],
    ids=["brief", "whole"],
)
def test_a_long_test_runs_when_it_is_asked_for(
    options: tuple[str, ...], number: int, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "test_both.py").write_text(_TEST.format(number=number))
    said = _pytest(*options, "-p", "no:xdist", "-q", str(tmp_path))
    assert outcome in said, said


@pytest.mark.long
def test_a_group_runs_on_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_group.py").write_text(_GROUP)
    said = _pytest("-n", "2", "--dist", "loadgroup", "-v", str(tmp_path))
    workers = {line.split()[0] for line in said.splitlines() if "test_grouped[" in line and "PASSED" in line}
    assert len(workers) == 1, said


def test_an_example_of_a_property_may_take_as_long_as_the_machine_needs() -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


def _pytest(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", f"--rootdir={_ROOT}", "-c", "pyproject.toml"]
    plugins = ["-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *plugins, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr
