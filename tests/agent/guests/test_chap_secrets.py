"""The files with the secrets of guests' exports."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.config.agent_file import ConfigError


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=30))
def test_each_guest_has_a_secret_of_its_own_in_the_folder(tmp_path: Path, name: str) -> None:
    secrets = ChapSecrets(tmp_path)
    secret = secrets.secret(name)
    assert secrets.file(name).parent == tmp_path / "secrets"
    assert secrets.file(name).read_text() == secret
    assert 12 <= len(secret) <= 16
    assert secret == ChapSecrets(tmp_path).secret(name)
    assert secret != secrets.secret(name + "x")


def test_only_its_own_user_can_read_it(tmp_path: Path) -> None:
    secrets = ChapSecrets(tmp_path / "state")
    before = os.umask(0)
    try:
        secrets.secret("db1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(secrets.file("db1").stat().st_mode) == 0o600
    assert stat.S_IMODE(secrets.file("db1").parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_one_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    secrets = ChapSecrets(tmp_path)
    secrets.secret("db1")
    secrets.file("db1").chmod(mode)
    with pytest.raises(
        ConfigError, match=rf"db1.chap: others can read this secret \(mode {mode:04o}\); remove"
    ):
        secrets.secret("db1")


@pytest.mark.parametrize(
    "text", ["", "short", "with a space in it", "with-a-newline-at-its-end\n", "x" * 256, "\u00fc" * 12]
)
def test_what_is_no_secret_is_refused(text: str, tmp_path: Path) -> None:
    secrets = ChapSecrets(tmp_path)
    secrets.secret("db1")
    secrets.file("db1").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no secret of 12 to 255 printable characters"):
        secrets.secret("db1")


def test_an_operators_own_secret_is_taken(tmp_path: Path) -> None:
    secrets = ChapSecrets(tmp_path)
    secrets.secret("db1")
    secrets.file("db1").write_text("an-operators-own")
    assert secrets.secret("db1") == "an-operators-own"


def test_a_link_and_a_folder_are_refused(tmp_path: Path) -> None:
    secrets = ChapSecrets(tmp_path)
    secrets.secret("db1")
    secrets.file("db2").symlink_to(secrets.file("db1"))
    with pytest.raises(ConfigError, match="guest db2: the CHAP secret of its export cannot be kept in"):
        secrets.secret("db2")
    secrets.file("db3").mkdir()
    with pytest.raises(ConfigError, match=r"db3.chap: is no regular file"):
        secrets.secret("db3")


def test_what_a_crash_left_half_written_is_not_taken(tmp_path: Path) -> None:
    secrets = ChapSecrets(tmp_path)
    secrets.secret("db1")
    secrets.file("db2").with_suffix(".new").write_text("half")
    assert len(secrets.secret("db2")) == 16


def test_a_folder_that_cannot_be_written_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(
        ConfigError, match=r"guest db1: .*state/secrets/db1.chap: .*; set state-dir \(--state-dir\)"
    ):
        ChapSecrets(tmp_path / "state").secret("db1")
