from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from holdover.paths.multipath_map import (
    MultipathMap,
    MultipathPath,
    is_multipath,
    map_of_disk,
    multipath_below,
    read_map,
)
from holdover.scsi.inquiry import Association, CodeSet, Designator, DesignatorType, DeviceIdentification
from holdover.scsi.path import PathError
from holdover.scsi.reservation.transport_id import FcTransportID

DEVICE = os.makedev(253, 0)


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """The part of sysfs that shows mpatha over sdb and sdaa, and a logical volume over it."""
    add_device(tmp_path, "253:0", "dm-0", "mpath-3600140500000001f00d", "mpatha")
    add_path(tmp_path, "253:0", "sdaa", "65:160", "offline")
    add_path(tmp_path, "253:0", "sdb", "8:16", "running")
    add_device(tmp_path, "253:1", "dm-1", "LVM-abc", "vg-lv")
    return tmp_path


def add_device(sys: Path, number: str, kernel_name: str, uuid: str, name: str) -> None:
    folder = sys / "dev" / "block" / number
    (folder / "dm").mkdir(parents=True)
    (folder / "slaves").mkdir()
    (folder / "dm" / "uuid").write_text(f"{uuid}\n")
    (folder / "dm" / "name").write_text(f"{name}\n")
    (sys / "devices").mkdir(exist_ok=True)
    (sys / "devices" / kernel_name).symlink_to(folder)


def add_path(sys: Path, number: str, disk: str, own: str, state: str) -> None:
    folder = sys / "dev" / "block" / number / "slaves" / disk
    (folder / "device").mkdir(parents=True)
    (folder / "dev").write_text(f"{own}\n")
    (folder / "device" / "state").write_text(f"{state}\n")
    holders = sys / "class" / "block" / disk / "holders"
    holders.mkdir(parents=True)
    (holders / "dm-0").symlink_to(sys / "devices" / "dm-0")


def test_a_multipath_device_is_known_by_its_uuid(sys: Path) -> None:
    assert is_multipath(DEVICE, sys)
    assert not is_multipath(os.makedev(253, 1), sys), "another kind of device-mapper device"
    assert not is_multipath(os.makedev(8, 16), sys)


def test_its_paths_are_in_the_order_of_their_numbers(sys: Path) -> None:
    assert read_map(DEVICE, sys) == MultipathMap(
        "mpatha",
        (
            MultipathPath("sdb", os.makedev(8, 16), running=True, initiator="sdb"),
            MultipathPath("sdaa", os.makedev(65, 160), running=False, initiator="sdaa"),
        ),
    )


def test_what_tells_the_initiator_port_and_the_target_port(sys: Path) -> None:
    hosts = sys / "devices" / "pci" / "host12" / "rport-12:0-1" / "target12:0:0" / "12:0:0:1"
    hosts.mkdir(parents=True)
    disk = sys / "dev" / "block" / "253:0" / "slaves" / "sdb"
    shutil.rmtree(disk / "device")
    (disk / "device").symlink_to(hosts)
    (hosts / "state").write_text("running\n")
    page = DeviceIdentification(
        (
            Designator(DesignatorType.NAA, Association.LOGICAL_UNIT, CodeSet.BINARY, bytes(8)),
            Designator(
                DesignatorType.RELATIVE_TARGET_PORT,
                Association.TARGET_PORT,
                CodeSet.BINARY,
                bytes([0, 0, 1, 2]),
            ),
        )
    )
    (hosts / "vpd_pg83").write_bytes(page.encode())
    path = read_map(DEVICE, sys).paths[0]
    assert (path.initiator, path.name, path.target_port) == ("host12", None, 0x102)
    fc_host = sys / "class" / "fc_host" / "host12"
    fc_host.mkdir(parents=True)
    (fc_host / "port_name").write_text("0x10000090fa123456\n")
    assert read_map(DEVICE, sys).paths[0].name == FcTransportID(bytes.fromhex("10000090fa123456"))
    (fc_host / "port_name").write_text("unknown\n")
    (hosts / "vpd_pg83").write_bytes(b"\0\x83\0")
    path = read_map(DEVICE, sys).paths[0]
    assert (path.name, path.target_port) == (None, None)


def test_a_path_without_a_state_answers_for_itself(sys: Path) -> None:
    (sys / "dev" / "block" / "253:0" / "slaves" / "sdaa" / "device" / "state").unlink()
    assert all(each.running for each in read_map(DEVICE, sys).paths)


def test_a_device_that_has_gone_or_has_no_paths_says_so(sys: Path) -> None:
    with pytest.raises(PathError, match="device 253:7: no multipath device"):
        read_map(os.makedev(253, 7), sys)
    with pytest.raises(PathError, match="vg-lv: the multipath device has no path; see `multipath -ll`"):
        read_map(os.makedev(253, 1), sys)


def test_a_disk_leads_to_the_device_above_it(sys: Path) -> None:
    assert map_of_disk("sdb", sys) == "dm-0"
    assert map_of_disk("sdz", sys) is None
    holders = sys / "class" / "block" / "sdc" / "holders"
    holders.mkdir(parents=True)
    (holders / "dm-1").symlink_to(sys / "devices" / "dm-1")
    assert map_of_disk("sdc", sys) is None


def test_what_lies_on_a_multipath_device_is_known(sys: Path) -> None:
    volume = sys / "dev" / "block" / "253:1"
    (volume / "slaves" / "dm-0").symlink_to(sys / "devices" / "dm-0")
    add_device(sys, "253:2", "dm-2", "LVM-def", "vg-thin")
    (sys / "dev" / "block" / "253:2" / "slaves" / "dm-1").symlink_to(sys / "devices" / "dm-1")
    assert multipath_below(os.makedev(253, 1), sys) == "dm-0"
    assert multipath_below(os.makedev(253, 2), sys) == "dm-0"
    assert multipath_below(DEVICE, sys) is None
    assert multipath_below(os.makedev(8, 16), sys) is None
