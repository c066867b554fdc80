"""Device-mapper multipath devices and their paths, as the kernel shows them in sysfs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Association, DesignatorType, DeviceIdentification
from holdover.scsi.path import PathError
from holdover.scsi.reservation.transport_id import FcTransportID

_UUID_PREFIX = "mpath-"
_RUNNING = "running"
_SCSI_HOST = re.compile(r"host\d+")


@dataclass(frozen=True, slots=True)
class MultipathPath:
    """One path of a multipath device: a SCSI disk of this host, one I_T nexus.

    Attributes:
        disk: The kernel's name of the disk, "sda"; its node has the same name.
        device: The device number.
        running: Whether the kernel has the disk in service.
        initiator: The initiator port: the kernel's SCSI host, "host3"; the disk's name if there is no host.
        name: The initiator port as READ FULL STATUS names it; None if the kernel does not know it.
        target_port: The relative target port identifier at the end of the path; None if it is not known.
    """

    disk: str
    device: int
    running: bool
    initiator: str
    name: FcTransportID | None = None
    target_port: int | None = None


@dataclass(frozen=True, slots=True)
class MultipathMap:
    """A multipath device.

    Attributes:
        name: The name that device-mapper and multipathd use, "mpatha".
        paths: All paths, usable or not, in the order of their device numbers.
    """

    name: str
    paths: tuple[MultipathPath, ...]


def is_multipath(device: int, sys: Path = Path("/sys")) -> bool:
    """Whether a block device's number is the number of a device-mapper multipath device."""
    return _is_multipath(_folder(device, sys))


def read_map(device: int, sys: Path = Path("/sys")) -> MultipathMap:
    """The name and the paths that a multipath device has at this moment.

    Raises:
        PathError: The device has gone, or has no path.
    """
    folder = _folder(device, sys)
    name = f"device {os.major(device)}:{os.minor(device)}"
    try:
        name = (folder / "dm" / "name").read_text().strip()
        paths = [_path(each, sys) for each in (folder / "slaves").iterdir()]
    except (OSError, ValueError) as error:
        raise PathError(name, f"no multipath device (any more): {error}") from error
    if not paths:
        raise PathError(name, "the multipath device has no path; see `multipath -ll`")
    return MultipathMap(name, tuple(sorted(paths, key=lambda each: each.device)))


def map_of_disk(disk: str, sys: Path = Path("/sys")) -> str | None:
    """The kernel's name ("dm-0") of the multipath device of which a disk ("sda") is a path; None if none."""
    for holder in sorted((sys / "class" / "block" / disk / "holders").glob("dm-*")):
        if _is_multipath(holder):
            return holder.name
    return None


def multipath_below(device: int, sys: Path = Path("/sys")) -> str | None:
    """The multipath device ("dm-0") on which a partition or a logical volume lies; None if there is none."""
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


def _path(folder: Path, sys: Path) -> MultipathPath:
    major, minor = (folder / "dev").read_text().strip().split(":")
    try:
        state = (folder / "device" / "state").read_text().strip()
    except OSError:
        state = _RUNNING  # a device that is not a SCSI disk has no state; its answers show whether it works
    hosts = [each for each in (folder / "device").resolve().parts if _SCSI_HOST.fullmatch(each)]
    host = hosts[-1] if hosts else folder.name
    return MultipathPath(
        folder.name,
        os.makedev(int(major), int(minor)),
        state == _RUNNING,
        host,
        _fc_port(sys / "class" / "fc_host" / host),
        _target_port(folder / "device"),
    )


def _fc_port(host: Path) -> FcTransportID | None:
    try:
        return FcTransportID(int((host / "port_name").read_text(), 16).to_bytes(8, "big"))
    except (OSError, ValueError, OverflowError):
        return None


def _target_port(device: Path) -> int | None:
    """The relative target port that the kernel read when it found the disk, even if the path is away now."""
    try:
        page = DeviceIdentification.decode((device / "vpd_pg83").read_bytes())
    except (OSError, DecodeError):
        return None
    for each in page.designators:
        if each.association is Association.TARGET_PORT and each.type is DesignatorType.RELATIVE_TARGET_PORT:
            return int.from_bytes(each.value[-2:], "big")
    return None
