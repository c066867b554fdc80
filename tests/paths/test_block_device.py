from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdover.paths.block_device import problem_of_block


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """A host with /dev/sda, its partition, and device-mapper devices on it."""
    block = tmp_path / "dev" / "block"
    block.mkdir(parents=True)
    disk = tmp_path / "devices" / "sda"
    for number, folder in (("8:0", disk), ("8:1", disk / "sda1"), ("259:5", disk / "sda16")):
        folder.mkdir(parents=True, exist_ok=True)
        (block / number).symlink_to(folder)
        if folder != disk:
            (folder / "partition").write_text(f"{folder.name[3:]}\n")
    for minor, uuid, name in (
        (0, "mpath-3600", "mpatha"),
        (1, "LVM-abc", "vg-root"),
        (2, "CRYPT-LUKS2-1", "secret"),
        (3, "part1-mpath-3600", "mpatha-part1"),
        (4, "", "bare"),
    ):
        folder = tmp_path / "devices" / f"dm-{minor}"
        (folder / "dm").mkdir(parents=True)
        (folder / "slaves").mkdir()
        (folder / "dm" / "uuid").write_text(uuid + "\n")
        (folder / "dm" / "name").write_text(name + "\n")
        (block / f"253:{minor}").symlink_to(folder)
    slave = tmp_path / "devices" / "dm-3" / "slaves" / "dm-0"
    slave.symlink_to(tmp_path / "devices" / "dm-0")
    return tmp_path


@pytest.mark.parametrize(
    ("major", "minor", "problem"),
    [
        (8, 0, None),
        (8, 16, None),
        (65, 240, None),
        (8, 1, "is /dev/sda1, a partition of /dev/sda; a reservation is of the whole LUN"),
        (259, 5, "is /dev/sda16, a partition of /dev/sda; a reservation is of the whole LUN"),
        (65, 241, "is a partition; a reservation is of the whole LUN"),
        (253, 0, None),
        (253, 1, "is vg-root, an LVM logical volume; a reservation is of the whole LUN"),
        (253, 2, "is secret, an encrypted volume; a reservation is of the whole LUN"),
        (253, 3, "it lies on the multipath device /dev/dm-0; name that"),
        (253, 4, "is bare, a device-mapper device; a reservation is of the whole LUN"),
        (7, 0, None),
    ],
)
def test_only_a_whole_disk_is_a_logical_unit(sys: Path, major: int, minor: int, problem: str | None) -> None:
    said = problem_of_block(os.makedev(major, minor), sys)
    if problem is None:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(problem)
