"""Programs that the fork server starts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tests.rig.forked import MODULES, ForkedHoldover


def test_all_that_programs_share_can_be_imported() -> None:
    """The fork server itself says nothing about a module that it cannot import."""
    assert [name for name in MODULES if find_spec(name) is None] == []


def test_a_program_writes_into_its_files_and_has_its_exit_status(tmp_path: Path) -> None:
    output, errors = tmp_path / "output", tmp_path / "errors"
    version = ForkedHoldover(["--version"], cwd=tmp_path, env={}, stdout=output, stderr=errors)
    assert version.wait() == 0
    assert output.read_text().startswith("holdover ")
    wrong = ForkedHoldover(["unknown"], cwd=tmp_path, env={}, stdout=output, stderr=errors)
    assert wrong.wait() == 2
    assert "no such command" in errors.read_text()
