"""A real guest on a real disk of a real kernel's target, its reservations through the agents' helpers."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from bench.qemu11 import Qemu11, qemu11_folder

from holdover.demo.machines.image import guest_image
from tests.peers.kernel_inside_helper import GUEST
from tests.peers.kernel_inside_helper import TYPES as KINDS
from tests.rig.kernel import run_in_kernel

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer(
        "user-mode-linux", "sg3-utils", "busybox-static", "qemu-system-x86", "qemu-system-common"
    ),
    pytest.mark.xdist_group("kernel"),
]

KEY = 0x600D
NEXUSES = ("sas 6001405000000001", "sas 6001405000000002")
"""The initiator ports of the hosts' disks, as LIO tells them."""

TYPES = {1: "Write Exclusive", 5: "Write Exclusive, registrants only", 8: "Exclusive Access, all registrants"}
CONFLICT = "RESERVATION CONFLICT"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    image = guest_image()
    newest = Qemu11(qemu11_folder()).started if present() else ()
    folder = tmp_path_factory.mktemp("kernel")
    result = folder / "observed.json"
    command = [sys.executable, "-m", "tests.peers.kernel_inside_helper"]
    done = run_in_kernel(
        [*command, str(result), str(image.kernel), str(image.initrd), *newest],
        folder,
        nexuses=3,
        memory="1536M",
        timeout=1200,
    )
    assert done.status == 0, done.output
    return json.loads(result.read_text())


def present() -> bool:
    """Whether QEMU 11 is here."""
    return (qemu11_folder() / "usr/bin/qemu-system-x86_64").exists()


def check(state: Any, kind: int, host: int) -> None:
    """The guest holds its reservation on ``host``'s nexus, and nobody else is registered."""
    registrant = {"key": KEY, "holder": True, "type": kind, "port": host + 1, "initiator": NEXUSES[host]}
    assert state["registrants"] == [registrant]
    assert f"type: {TYPES[kind]}\n" in state["reservation"]
    assert "1 registered reservation key" in state["keys"]
    assert f"{KEY:#x}" in state["keys"]
    assert state["aptpl"] is True
    assert state["write"].startswith("1+0 records in\n1+0 records out")
    assert state["third"] == CONFLICT


@pytest.mark.parametrize("kind", KINDS)
def test_the_reservation_moves_to_the_other_nexus_and_nothing_is_left(seen: Any, kind: int) -> None:
    found = seen[f"type {kind}"]
    assert found["outcome"] == "moved"
    # it goes back and forth, type after type
    destination = (KINDS.index(kind) + 1) % 2
    assert found["here"] == destination
    check(found["before"], kind, 1 - destination)
    check(found["after"], kind, destination)


def test_the_guest_sees_the_mask_and_the_power_loss_bit_survives(seen: Any) -> None:
    for when in ("before", "after"):
        capabilities = seen["type 8"][when]["guest_capabilities"]
        assert "(SIP_C): 0\n" in capabilities
        assert "(ATP_C): 0\n" in capabilities
        assert "(PTPL_A): 1\n" in capabilities


def test_with_the_helper_of_qemu_nothing_is_masked(seen: Any) -> None:
    true = seen["without"]["before"]["guest_capabilities"]
    assert "(SIP_C): 1\n" in true
    assert "(ATP_C): 1\n" in true


def test_after_a_failure_at_commit_the_guest_goes_on_on_the_source(seen: Any) -> None:
    found = seen["failed"]
    assert found["outcome"].startswith("failed: a failure after commit was asked for")
    assert found["here"] == 1
    check(found["after"], 1, 1)


def test_a_guest_that_no_file_names_moves_to_a_host_that_did_not_know_it(seen: Any) -> None:
    found = seen["unnamed"]
    assert found["outcome"] == "moved"
    assert found["here"] == 1
    check(found["before"], 1, 0)
    check(found["after"], 1, 1)


def test_a_guest_whose_qemu_is_started_anew_goes_on_with_what_it_held(seen: Any) -> None:
    found = seen["unnamed"]
    check(found["restarted"], 1, 1)
    assert found["known"] == [[["/dev/sdb", f"{KEY:#x}", "running"]]]


@pytest.mark.skipif(not present(), reason="needs QEMU 11: python -m bench.qemu11 unpacks it")
def test_a_qemu_that_moves_reservations_itself_does_so_through_the_helpers(seen: Any) -> None:
    found = seen["moved by QEMU"]
    check(found["before"], 1, 0)
    assert f"guest {GUEST}: its QEMU moves its reservations itself" in found["refused"]
    # nothing is masked by us, and QEMU masks it itself; QEMU 11.1.3 loses the power loss bit
    check(found["after"] | {"aptpl": True}, 1, 1)
    assert found["shown"] == [[], ["MOVED BY QEMU"]]


def test_with_the_helper_of_qemu_the_guest_is_a_stranger_after_the_move(seen: Any) -> None:
    """The harm; and the proof that the tests above could fail."""
    found = seen["without"]
    check(found["before"], 1, 0)
    assert found["here"] == 1
    assert found["after"]["registrants"][0]["initiator"] == NEXUSES[0]
    assert "Invalid exchange" in found["after"]["write"]
