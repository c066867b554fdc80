from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdover.lun.durable import remove_file, replace_file


def test_replace_and_remove(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"one")
    assert path.read_bytes() == b"one"
    replace_file(path, b"second")
    assert path.read_bytes() == b"second"
    remove_file(path)
    remove_file(path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_behind_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file.new").write_bytes(b"something longer than the content")
    replace_file(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_everything_is_on_stable_storage_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, os.rename

    def noting_sync(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def noting_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "rename", noting_rename)
    replace_file(tmp_path / "file", b"content")
    assert steps == ["file.new", "rename", tmp_path.name]


def test_a_failure_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
