"""QEMU's options on the page about disks of the host are those with which tests boot guests on such disks."""

from __future__ import annotations

import re
from pathlib import Path

from holdover.demo.machines.process import HostDisk, VirtualMachine
from tests.docs.typist import lines_of


def test_a_disk_of_the_host() -> None:
    (shown,) = lines_of("how-to/host-disks.md")
    device = re.search(r"filename=([^,]+)", shown)
    helper = re.search(r"path=(\S+)", shown)
    assert device is not None
    assert helper is not None
    disk = HostDisk(device=Path(device[1]), helper=Path(helper[1]))
    said = " ".join(VirtualMachine(name="db1", disks=(disk,)).arguments())
    started = options(said.replace("drive0-pr", "prm").replace("drive0", "d0"))
    for flag, parts in options(shown):
        assert any(flag == other and parts <= more for other, more in started), (flag, parts)


def options(line: str) -> list[tuple[str, set[str]]]:
    """Each option of a command line, with the parts of its value."""
    return [(flag, set(value.split(","))) for flag, value in re.findall(r"(-[a-z]+) ([^-\s]\S*)", line)]
