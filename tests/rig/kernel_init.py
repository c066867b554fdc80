"""The first process of the kernel that `kernel` boots: disks on the kernel's own target, then a command.

Everything is done by system calls, as each program that is started costs a user-mode kernel dear. Runs with
the standard library alone. Its one argument is the file with the settings that `kernel` has written.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

_TARGET = Path("/sys/kernel/config/target")
_STORE = Path("/run/lio")
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_POWER_OFF = 0x4321FEDC
_SCSI_IOCTL_TEST_UNIT_READY = 2
_ATTENTIONS = 4
"""More unit attentions than a new disk has."""
_PATIENCE = 600.0

# In the order in which they need each other; what is built into this kernel is not there as a file.
_MODULES = (
    "fs/configfs/configfs",
    "drivers/scsi/scsi_common",
    "drivers/scsi/scsi_mod",
    "lib/crc64",
    "lib/crc64-rocksoft",
    "lib/crc-t10dif",
    "block/t10-pi",
    "drivers/scsi/sd_mod",
    "drivers/scsi/sg",
    "drivers/target/target_core_mod",
    "drivers/target/target_core_file",
    "drivers/target/loopback/tcm_loop",
)

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Set up, run the command, leave its status, and switch the machine off."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    status = Path(settings["status"])
    try:
        _mount_all()
        _network()
        for module in _MODULES:
            load_module(Path(settings["modules"]) / f"{module}.ko")
        _target(settings["nexuses"], settings["luns"], settings["megabytes"])
        done = subprocess.run(
            settings["command"], cwd=settings["folder"], env=settings["environment"], check=False
        )
        status.write_text(str(done.returncode))
    except BaseException:
        traceback.print_exc()
        status.write_text("254")
    finally:
        os.sync()
        _libc.reboot(_POWER_OFF)


def _mount_all() -> None:
    # /dev is there: the kernel has mounted it by itself
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")):
        _mount(kind, place)
    Path("/dev/shm").mkdir(exist_ok=True)
    _mount("tmpfs", "/dev/shm")


def _mount(kind: str, place: str) -> None:
    if _libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None) != 0:
        raise OSError(ctypes.get_errno(), f"mounting {kind} at {place}")


def _network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def load_module(module: Path) -> None:
    """Load a kernel module and wait for it; nothing where it is built in."""
    if not module.exists():
        return
    with module.open("rb") as file:
        number = _FINIT_MODULE[os.uname().machine]
        if _libc.syscall(number, file.fileno(), b"", 0) != 0:
            raise OSError(ctypes.get_errno(), f"loading {module}")


def _target(nexuses: int, luns: int, megabytes: int) -> None:
    """LUNs in memory, and one initiator port with a target port of its own for each nexus."""
    # registrations with APTPL are kept in files here; without the folder they fail
    (_STORE / "pr").mkdir(parents=True)
    _mount("configfs", "/sys/kernel/config")
    _set(_TARGET / "dbroot", str(_STORE))
    backs = [_backstore(number, megabytes) for number in range(luns)]
    for nexus in range(1, nexuses + 1):
        group = _TARGET / "loopback" / f"naa.50014050000000{nexus:02x}" / "tpgt_1"
        group.mkdir(parents=True)
        _set(group / "nexus", f"naa.60014050000000{nexus:02x}")
        for number, back in enumerate(backs):
            lun = group / "lun" / f"lun_{number}"
            lun.mkdir()
            (lun / "port").symlink_to(back)
    _await_disks(nexuses * luns)


def _backstore(number: int, megabytes: int) -> Path:
    file = _STORE / f"lun{number}"
    with file.open("wb") as store:
        store.truncate(megabytes << 20)
    back = _TARGET / "core" / f"fileio_{number}" / f"lun{number}"
    back.mkdir(parents=True)
    _set(back / "control", f"fd_dev_name={file},fd_dev_size={megabytes << 20}")
    _set(back / "wwn" / "vpd_unit_serial", f"{number + 1:08x}f00d{0:020d}")
    _set(back / "enable", "1")
    return back


def _set(attribute: Path, value: str) -> None:
    # the kernel takes a value to its newline: without one, what was there before shines through
    attribute.write_text(f"{value}\n")


def _await_disks(count: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found = [each for each in os.listdir("/sys/block") if each.startswith("sd")]
        with contextlib.suppress(FileNotFoundError):
            if len(found) == count and all(_has_node(each) for each in found):
                for each in found:
                    _clear_attentions(Path("/dev", each))
                return
        time.sleep(0.02)
    raise TimeoutError(f"{count} disks were to come, and {found} are there")


def _clear_attentions(disk: Path) -> None:
    """Take the unit attentions of a disk. A LUN that came later leaves one on the earlier disks of its nexus.

    The kernel takes it itself if it looks at the earlier disk after that, as it does on a fast machine.
    """
    descriptor = os.open(disk, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for _ in range(_ATTENTIONS):
            with contextlib.suppress(OSError):
                fcntl.ioctl(descriptor, _SCSI_IOCTL_TEST_UNIT_READY)
    finally:
        os.close(descriptor)


def _has_node(disk: str) -> bool:
    generic: list[Any] = list(Path(f"/sys/block/{disk}/device/scsi_generic").iterdir())
    return Path("/dev", disk).exists() and all(Path("/dev", each.name).exists() for each in generic)


if __name__ == "__main__":
    main()
