"""docs/how-to/host-disks.md as it is typed: QEMU's command line and the agent's file, with real guests.

Two hosts within a kernel of the rig have one LUN as a disk each. The guests boot, reserve, and move.
"""

from __future__ import annotations

from typing import Any

import pytest

from holdover.demo.machines.image import guest_image
from tests.peers.kernel_inside_host_disks import KEY
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer("user-mode-linux", "sg3-utils", "busybox-static", "iproute2", "qemu-system-x86"),
    pytest.mark.xdist_group("kernel"),
]

GUESTS = {"named": "db1", "unnamed": "win-7"}
NEXUSES = {"before": "sas 6001405000000001", "after": "sas 6001405000000002"}
"""The initiator ports of the hosts' disks, as LIO tells them."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    image = guest_image()
    return observe(
        "tests.peers.kernel_inside_host_disks",
        tmp_path_factory.mktemp("kernel"),
        str(image.kernel),
        str(image.initrd),
        nexuses=3,
        memory="2048M",
    )


@pytest.mark.parametrize("kind", GUESTS)
def test_the_guest_reserves_through_the_agent(seen: Any, kind: str) -> None:
    assert (seen[kind]["register"], seen[kind]["reserve"]) == ("", ""), "no complaint"


@pytest.mark.parametrize("kind", GUESTS)
def test_the_guest_moves_with_its_reservation(seen: Any, kind: str) -> None:
    found = seen[kind]
    assert found["migrate"] == ""
    for when, nexus in NEXUSES.items():
        state = found[when]
        assert state["registrants"] == [[KEY, True, 5, nexus]]
        assert state["aptpl"] is True
        assert state["write"].startswith("1+0 records in\n1+0 records out")
        assert state["third"] == "RESERVATION CONFLICT"
        assert GUESTS[kind] in state["status"]
        assert f"{KEY:x}" in state["status"]
    assert found["leave"] == ""
