"""Device-mapper multipath devices as the kernel shows them in sysfs: which they are, and their paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from holdover.paths.path import PathError

__all__ = ["MultipathMap", "MultipathPath", "is_multipath", "map_of_disk", "multipath_below", "read_map"]

_UUID_PREFIX = "mpath-"
_RUNNING = "running"


@dataclass(frozen=True, slots=True)
class MultipathPath:
    """One path of a multipath device: a SCSI disk of this host, one I_T nexus.

    Attributes:
        disk: The kernel's name, "sda"; also that of its node.
        device: Its device number.
        running: The kernel has not taken it out of service.
    """

    disk: str
    device: int
    running: bool


@dataclass(frozen=True, slots=True)
class MultipathMap:
    """A multipath device.

    Attributes:
        name: As device-mapper and multipathd call it, "mpatha".
        paths: All its paths, usable or not, in the order of their device numbers.
    """

    name: str
    paths: tuple[MultipathPath, ...]


def is_multipath(device: int, sys: Path = Path("/sys")) -> bool:
    """Whether a block device's number is that of a device-mapper multipath device."""
    return _is_multipath(_folder(device, sys))


def read_map(device: int, sys: Path = Path("/sys")) -> MultipathMap:
    """What a multipath device consists of at this moment.

    Raises:
        PathError: It has gone, or has no path.
    """
    folder = _folder(device, sys)
    name = f"device {os.major(device)}:{os.minor(device)}"
    try:
        name = (folder / "dm" / "name").read_text().strip()
        paths = [_path(each) for each in (folder / "slaves").iterdir()]
    except (OSError, ValueError) as error:
        raise PathError(name, f"no multipath device (any more): {error}") from error
    if not paths:
        raise PathError(name, "the multipath device has no path; see `multipath -ll`")
    return MultipathMap(name, tuple(sorted(paths, key=lambda each: each.device)))


def map_of_disk(disk: str, sys: Path = Path("/sys")) -> str | None:
    """The kernel's name of the multipath device that a disk ("sda") is a path of, "dm-0"; None without."""
    for holder in sorted((sys / "class" / "block" / disk / "holders").glob("dm-*")):
        if _is_multipath(holder):
            return holder.name
    return None


def multipath_below(device: int, sys: Path = Path("/sys")) -> str | None:
    """The multipath device that a partition of it or a logical volume lies on, "dm-0"; None without."""
    return _below(_folder(device, sys))


def _below(folder: Path) -> str | None:
    for each in sorted((folder / "slaves").glob("dm-*")):
        found = each.name if _is_multipath(each) else _below(each)
        if found is not None:
            return found
    return None


def _folder(device: int, sys: Path) -> Path:
    return sys / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"


def _is_multipath(folder: Path) -> bool:
    try:
        return (folder / "dm" / "uuid").read_text().startswith(_UUID_PREFIX)
    except OSError:
        return False


def _path(folder: Path) -> MultipathPath:
    major, minor = (folder / "dev").read_text().strip().split(":")
    try:
        state = (folder / "device" / "state").read_text().strip()
    except OSError:
        state = _RUNNING  # what is no SCSI disk has none, and answers for itself
    return MultipathPath(folder.name, os.makedev(int(major), int(minor)), state == _RUNNING)
