"""Which block devices of this host are a whole logical unit.

The kernel passes SG_IO on a partition or a logical volume through to the disk below it. So a reservation for
such a part would lock other nodes out of the whole logical unit. Such devices are refused by name.
"""

from __future__ import annotations

import os
from pathlib import Path

from holdover.paths.multipath_map import multipath_below

SD_MAJORS = frozenset({8, *range(65, 72), *range(128, 136)})
"""Major numbers of the kernel's sd driver."""

_SD_MINORS = 16
"""The number of minor numbers of each sd disk: the first is the disk, the others are its partitions."""

_MULTIPATH = "mpath-"
_KINDS = {"LVM-": "an LVM logical volume", "CRYPT-": "an encrypted volume", "part": "a partition"}
"""The kinds of device-mapper devices, by the beginning of their UUID."""


def problem_of_block(device: int, sys: Path = Path("/sys")) -> str | None:
    """Why the block device with this number is not a whole logical unit; None if it is one."""
    if os.major(device) in SD_MAJORS and os.minor(device) % _SD_MINORS == 0:
        return None
    folder = sys / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"
    if (folder / "partition").exists() or os.major(device) in SD_MAJORS:
        return f"is {_partition(folder)}; a reservation is of the whole LUN: give the guest the whole disk"
    uuid = _read(folder / "dm" / "uuid")
    if uuid is None or uuid.startswith(_MULTIPATH):
        return None
    below = multipath_below(device, sys)
    if below is not None:
        # the kernel would send the command down one path of the multipath device only
        return f"it lies on the multipath device /dev/{below}; name that"
    kind = next((text for start, text in _KINDS.items() if uuid.startswith(start)), "a device-mapper device")
    name = _read(folder / "dm" / "name") or folder.name
    return f"is {name}, {kind}; a reservation is of the whole LUN: give the guest the whole disk"


def _partition(folder: Path) -> str:
    try:
        found = folder.resolve(strict=True)
    except OSError:
        return "a partition"
    return f"/dev/{found.name}, a partition of /dev/{found.parent.name}"


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
