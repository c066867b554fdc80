from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from holdover.lun.errors import MediumError
from holdover.lun.medium import FileMedium


def test_a_missing_file_is_made_sparse(tmp_path: Path) -> None:
    path = tmp_path / "lun"
    medium = FileMedium(path, 1 << 40)
    assert medium.size == path.stat().st_size == 1 << 40
    assert path.stat().st_blocks == 0
    assert medium.read((1 << 40) - 512, 512) == bytes(512)
    medium.close()


def test_what_was_written_is_read_after_reopening(tmp_path: Path) -> None:
    medium = FileMedium(tmp_path / "lun", 4096)
    medium.write(512, b"x" * 1024)
    medium.flush()
    medium.close()
    medium = FileMedium(tmp_path / "lun", None)
    assert medium.size == 4096
    assert medium.read(0, 4096) == bytes(512) + b"x" * 1024 + bytes(2560)
    medium.close()


def test_a_missing_file_needs_a_size(tmp_path: Path) -> None:
    with pytest.raises(MediumError, match="lun does not exist"):
        FileMedium(tmp_path / "lun", None)
    assert not (tmp_path / "lun").exists()


def test_another_size_names_both(tmp_path: Path) -> None:
    (tmp_path / "lun").write_bytes(bytes(1024))
    with pytest.raises(MediumError, match=r"lun has 1024 bytes, but a size of 2048"):
        FileMedium(tmp_path / "lun", 2048)
    assert (tmp_path / "lun").stat().st_size == 1024


@pytest.mark.parametrize("length", [0, 1, 513])
def test_a_length_that_is_no_medium(tmp_path: Path, length: int) -> None:
    (tmp_path / "lun").write_bytes(bytes(length))
    with pytest.raises(MediumError, match=f"has {length} bytes"):
        FileMedium(tmp_path / "lun", None)


def test_an_empty_file_gets_its_size(tmp_path: Path) -> None:
    (tmp_path / "lun").touch()
    medium = FileMedium(tmp_path / "lun", 1024)
    assert medium.size == 1024
    medium.close()


def test_what_is_no_file_or_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(MediumError, match="not a regular file"):
        FileMedium(tmp_path, 1024)
    with pytest.raises(MediumError, match="cannot be opened: No such file"):
        FileMedium(tmp_path / "missing" / "lun", 1024)
    with pytest.raises(MediumError, match="cannot get"):
        FileMedium(tmp_path / "lun", 1 << 62)


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    medium = FileMedium(tmp_path / "lun", 1024)
    with pytest.raises(MediumError, match="in use"):
        FileMedium(tmp_path / "lun", 1024)
    medium.close()
    FileMedium(tmp_path / "lun", 1024).close()


def test_a_file_cut_short_behind_our_back(tmp_path: Path) -> None:
    medium = FileMedium(tmp_path / "lun", 1024)
    os.truncate(tmp_path / "lun", 600)
    with pytest.raises(OSError, match="ends before byte 1024"):
        medium.read(512, 512)
    medium.close()


def test_holes(tmp_path: Path) -> None:
    medium = FileMedium(tmp_path / "lun", 1 << 20)
    assert medium.extent(0) == (False, 1 << 20)
    medium.write(65536, b"x" * 65536)
    medium.flush()
    assert medium.extent(0) == (False, 65536)
    assert medium.extent(65536 + 512) == (True, 131072)
    assert medium.extent(131072) == (False, 1 << 20)
    before = (tmp_path / "lun").stat().st_blocks
    medium.unmap(65536 + 512, 65536 - 512)
    assert medium.read(65536, 65536) == b"x" * 512 + bytes(65536 - 512)
    assert (tmp_path / "lun").stat().st_blocks < before
    assert (tmp_path / "lun").stat().st_size == 1 << 20
    medium.prefetch(0, 1 << 20)
    medium.close()
    medium.prefetch(0, 512)
    with pytest.raises(OSError, match="Bad file descriptor"):
        medium.unmap(0, 512)


def test_a_file_system_without_holes_gets_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("holdover.lun.medium.punch_hole", refuse)
    medium = FileMedium(tmp_path / "lun", 4 << 20)
    medium.write(0, b"x" * (4 << 20))
    medium.unmap(512, (2 << 20) + 512)
    assert medium.read(0, 4 << 20) == b"x" * 512 + bytes((2 << 20) + 512) + b"x" * ((2 << 20) - 1024)
    medium.close()


def test_a_file_that_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(MediumError, match="a read-only file is not created"):
        FileMedium(tmp_path / "lun", 1024, read_only=True)
    assert not (tmp_path / "lun").exists()
    (tmp_path / "lun").write_bytes(b"r" * 1024)
    (tmp_path / "lun").chmod(0o400)
    medium = FileMedium(tmp_path / "lun", None, read_only=True)
    assert medium.read(0, 1024) == b"r" * 1024
    medium.flush()
    with pytest.raises(OSError, match="Bad file descriptor"):
        medium.write(0, b"w" * 512)
    with pytest.raises(MediumError, match="in use"):
        FileMedium(tmp_path / "lun", None)
    medium.close()


def test_a_closed_medium_touches_no_other_file(tmp_path: Path) -> None:
    medium = FileMedium(tmp_path / "lun", 1024)
    medium.close()
    medium.close()
    other = FileMedium(tmp_path / "other", 1024)
    with pytest.raises(OSError) as raised:  # noqa: PT011
        medium.write(0, b"x" * 512)
    assert raised.value.errno == errno.EBADF
    assert other.read(0, 512) == bytes(512)
    other.close()
