from __future__ import annotations

import pytest

from tests.rig.packages import PRESENT, needs


def test_nothing_is_skipped_when_the_program_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESENT, "coreutils", lambda: True)
    needs("coreutils")


def test_a_missing_program_skips_by_the_name_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESENT, "unheard-of", lambda: False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="unheard-of"):
        needs("unheard-of")


def test_a_missing_program_fails_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESENT, "unheard-of", lambda: False)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="unheard-of"):
        needs("unheard-of")
