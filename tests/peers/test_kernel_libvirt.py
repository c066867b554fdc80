"""`virsh migrate`, unchanged, with disks of the host: libvirt on two hosts within a kernel of the rig."""

from __future__ import annotations

from typing import Any

import pytest

from holdover.demo.machines.image import guest_image
from tests.peers.kernel_inside_libvirt import KEY
from tests.peers.kernel_inside_libvirt import TYPES as KINDS
from tests.rig.guest_commands import counts_of, wrote_without_error
from tests.rig.kernel import observe
from tests.rig.kernel_site import HELPER
from tests.rig.separate_libvirt import PACKAGES
from tests.rig.separate_site import GUEST

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer("user-mode-linux", "sg3-utils", "busybox-static", "iproute2", *PACKAGES),
    pytest.mark.xdist_group("kernel"),
]

NEXUSES = {"host-a": "sas 6001405000000001", "host-b": "sas 6001405000000002"}
"""The initiator ports of the hosts' disks, as LIO tells them."""
TYPES = {1: "Write Exclusive", 5: "Write Exclusive, registrants only", 8: "Exclusive Access, all registrants"}
CONFLICT = "RESERVATION CONFLICT"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    image = guest_image()
    return observe(
        "tests.peers.kernel_inside_libvirt",
        tmp_path_factory.mktemp("kernel"),
        str(image.kernel),
        str(image.initrd),
        nexuses=3,
        memory="2048M",
    )


def test_the_xml_that_holdover_prints_puts_the_agents_helper_in_place_of_qemus(seen: Any) -> None:
    (before,), (after,) = seen["defined"]["before"], seen["defined"]["after"]
    assert before.startswith(f"NO  {GUEST}, disk sda: has <reservations managed='yes'>")
    assert after == f"ok  {GUEST}, disk sda: by the helper at {HELPER}"


def check(state: Any, kind: int, host: str) -> None:
    """The guest runs on ``host`` alone and writes, and its nexus there alone has the reservation."""
    assert (state["here"], state["runs on"]) == (host, [host])
    assert state["registrants"] == [[KEY, True, kind, NEXUSES[host]]]
    assert f"type: {TYPES[kind]}\n" in state["reservation"]
    assert state["aptpl"] is True
    assert state["write"].startswith("1+0 records in\n1+0 records out")


@pytest.mark.parametrize("kind", KINDS)
def test_virsh_migrate_takes_the_reservation_there_and_back(seen: Any, kind: int) -> None:
    found = seen[f"type {kind}"]
    assert (found["there"], found["back"]) == ("", ""), "virsh migrate has failed"
    for when, host in (("before", "host-a"), ("away", "host-b"), ("home", "host-a")):
        check(found[when], kind, host)


@pytest.mark.parametrize("kind", KINDS)
def test_the_guest_writes_all_the_time_and_the_intruder_never(seen: Any, kind: int) -> None:
    found = seen[f"type {kind}"]
    assert list(found["intruder"]) == [CONFLICT]
    wrote_without_error(counts_of(found["counts"]))
