"""Paths over a guest's disks, on real ones: which disk they take, and how long they keep it open."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rig.kernel import observe

pytestmark = [pytest.mark.long, pytest.mark.peer("user-mode-linux"), pytest.mark.xdist_group("kernel")]

SDA = ["GOOD", "/dev/sda"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kernel")
    return observe("tests.peers.kernel_inside_attach_disk", folder, nexuses=1, luns=2)


def test_what_is_opened_must_be_the_lun(seen: Any) -> None:
    assert seen["its disk"] == SDA
    problem, _ = seen["another LUN's disk"]
    assert problem.startswith("/dev/sdb: is LUN naa.")
    problem, name = seen["a disk that is gone"]
    assert problem == "device 8:240: this host does not have it any more"
    assert name == "device 8:240"


def test_a_disk_is_looked_for_where_it_is_not_certain(seen: Any) -> None:
    assert seen["looked for"] == SDA
    assert seen["uncertain, another LUN's"] == SDA
    assert seen["uncertain, gone"] == SDA


def test_a_disk_is_open_while_it_is_held_and_when_there_is_something_to_do(seen: Any) -> None:
    # one of them is that of the test itself
    assert seen["closed when idle"] == ["/dev/sda"]
    assert seen["held"] == SDA
    assert seen["open while held"] == ["/dev/sda", "/dev/sda"]
    assert seen["closed when let go"] == ["/dev/sda"]
    assert seen["used after that"] == SDA
