"""A real guest whose disk is a real multipath device: a path fails under it, and it keeps what it has."""

from __future__ import annotations

from typing import Any

import pytest

from holdover.demo.machines.image import guest_image
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer(
        "user-mode-linux",
        "multipath-tools",
        "sg3-utils",
        "busybox-static",
        "qemu-system-x86",
        "qemu-system-common",
    ),
    pytest.mark.xdist_group("kernel"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    image = guest_image()
    return observe(
        "tests.peers.kernel_inside_multipath_guest",
        tmp_path_factory.mktemp("kernel"),
        str(image.kernel),
        str(image.initrd),
        "ours",
        "qemu",
        nexuses=3,
        timeout=1500,
    )


def test_the_guest_reserves_with_all_paths_of_its_disk(seen: Any) -> None:
    ours = seen["ours"]
    assert (ours["register"], ours["reserve"]) == ("", ""), "no complaint"
    assert ours["registrants"] == ["sda a*", "sdb a"]
    assert "2 registered reservation keys follow:\n    0xa\n    0xa\n" in ours["keys"]
    assert "Key=0xa\n" in ours["reservation"]
    assert "type: Write Exclusive, registrants only\n" in ours["reservation"]


def test_it_writes_through_whichever_path_is_left(seen: Any) -> None:
    assert seen["ours"]["writes"] == ["1+0 records in\n1+0 records out\n"] * 3


def test_what_the_logical_unit_refuses_the_guest_is_refused(seen: Any) -> None:
    assert seen["ours"]["wrong key"].startswith("status 24: PR out (Register): Reservation conflict")


def test_a_helper_that_knows_nothing_of_paths_registers_one(seen: Any) -> None:
    """Debian's qemu-pr-helper is built without libmpathpersist; so the test above can fail."""
    assert len(seen["qemu"]["registrants"]) == 1
