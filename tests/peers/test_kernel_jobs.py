"""A real guest on a host's disk, carried by the agents: a migration as a job, a dead agent, cold starts."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from holdover.demo.machines.image import guest_image
from tests.peers.kernel_inside_helper import GUEST, HOSTS
from tests.peers.kernel_inside_helper import TYPES as KINDS
from tests.peers.kernel_inside_jobs import KILLS, KIND
from tests.peers.test_kernel_helper import KEY, NEXUSES, check
from tests.rig.guest_commands import counts_of, wrote_without_error
from tests.rig.kernel import run_in_kernel

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer(
        "user-mode-linux", "sg3-utils", "busybox-static", "qemu-system-x86", "qemu-system-common"
    ),
    pytest.mark.xdist_group("kernel"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    image = guest_image()
    folder = tmp_path_factory.mktemp("kernel")
    result = folder / "observed.json"
    command = [sys.executable, "-m", "tests.peers.kernel_inside_jobs", str(result)]
    done = run_in_kernel(
        [*command, str(image.kernel), str(image.initrd)], folder, nexuses=3, memory="1536M", timeout=3600
    )
    assert done.status == 0, done.output
    return json.loads(result.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_the_agents_carry_the_guest_there_and_back(seen: Any, kind: int) -> None:
    found = seen[f"type {kind}"]
    check(found["begins"], kind, 0)
    for way, host in (("there", 1), ("back", 0)):
        assert found[way]["phase"] == "moved", found[way]
        assert found[way]["here"] == host
        check(found[way]["after"], kind, host)
    wrote_without_error(counts_of(found["counts"]))


@pytest.mark.parametrize("dies", KILLS)
def test_an_agent_killed_amid_the_commit_goes_on_and_the_guest_runs_on_one_host(seen: Any, dies: str) -> None:
    found = seen[f"{dies} dies"]
    assert found["phase"] in ("moved", "stayed")
    assert found["here"] == (1 - found["began on"] if found["phase"] == "moved" else found["began on"])
    check(found["after"], KIND, found["here"])
    wrote_without_error(counts_of(found["counts"]))


def test_a_guest_that_was_shut_down_starts_on_the_other_host_with_its_reservation(seen: Any) -> None:
    found = seen["starts elsewhere"]
    assert found["here"] == 1 - found["shut down on"]
    assert f"was handed over from {HOSTS[found['shut down on']]}" in found["said"]
    check(found["after"], KIND, found["here"])


def test_a_guest_whose_host_is_dead_waits_until_somebody_declares_it(seen: Any) -> None:
    found = seen["without its host"]
    dead = 1 - found["here"]
    assert f"fence it, then: holdover host declare-dead {HOSTS[dead]}" in found["refused"]
    (waits,) = found["waits"]
    assert f"guest {GUEST}: its QEMU runs on {HOSTS[found['here']]}, but its reservation commands" in waits
    assert f"declare-dead {HOSTS[dead]}" in waits
    assert found["gates"] != ["running"]
    assert found["held"] == [dead + 1]
    # its commands pass, and the registration by the dead host stays until the guest's cluster removes it
    (left,) = found["declared"]["registrants"]
    assert (left["key"], left["initiator"]) == (KEY, NEXUSES[dead])
    assert "Invalid exchange" in found["declared"]["write"]
    check(found["after"], KIND, found["here"])
    # what comes back lets nothing pass
    assert found["back"] == ["departed"]
