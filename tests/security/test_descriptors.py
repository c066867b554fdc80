"""What a client's descriptor may do bounds what the agent does for it: on real disks of a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from tests.peers.kernel_inside_descriptors import KEY, OTHER_KEY
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.peer("user-mode-linux", "multipath-tools"),
    pytest.mark.xdist_group("kernel"),
]

GOOD = "GOOD"
NO_RESERVATIONS = "CHECK CONDITION: ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE (5h 20h/00h)"
OUT_OF_REACH = "CHECK CONDITION: ABORTED COMMAND, LOGICAL UNIT COMMUNICATION FAILURE (Bh 08h/00h)"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return observe("tests.peers.kernel_inside_descriptors", tmp_path_factory.mktemp("kernel"), nexuses=2)


def test_a_descriptor_for_reading_alone_changes_nothing(seen: Any) -> None:
    # at 847e57f root opened the disk anew for writing, and its probe moved PRGENERATION
    assert seen["read"] == {
        "said": [GOOD, NO_RESERVATIONS],
        "moved": 0,
        "keys": [OTHER_KEY],
        "devices": [["/dev/sda", 0]],
    }


def test_a_descriptor_that_everybody_gets_leads_nowhere(seen: Any) -> None:
    """O_PATH needs no permission on the file, so uid 65534 has one of every disk."""
    assert seen["path"] == {"said": [OUT_OF_REACH] * 2, "moved": 0, "keys": [], "devices": []}


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("partition", "/dev/sda1, a partition of /dev/sda"),
        ("volume", "vg-volume, an LVM logical volume"),
    ],
)
def test_a_part_of_a_disk_does_not_reserve_the_whole_lun(seen: Any, part: str, problem: str) -> None:
    assert seen[part] == {"said": [OUT_OF_REACH] * 2, "moved": 0, "keys": [], "devices": []}
    assert any(problem in each for each in seen["log"]), "the log says why"
    assert any(problem in each for each in seen["refusals"].values()), "the helper alone refuses it too"


def test_who_gets_to_write_later_may_reserve_from_then_on(seen: Any) -> None:
    assert seen["first for reading"] == [GOOD, NO_RESERVATIONS]
    assert seen["then for writing"] == [GOOD, GOOD]
    assert seen["keys"] == [KEY]
    assert seen["tracked"] == [KEY]
