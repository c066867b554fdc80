"""fence_scsi on the kernel's disks and target, around a guest that is rolled back after it ran elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from tests.peers.kernel_inside_fence import GUEST_KEY, NODE_KEY, OTHER_KEY
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer("user-mode-linux", "open-iscsi", "sg3-utils", "fence-agents"),
    pytest.mark.xdist_group("kernel"),
]

CONFLICT = "Invalid exchange"
"""EBADE, which is what Linux makes of RESERVATION CONFLICT."""
WERO = 5


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kernel")
    return observe("tests.peers.kernel_inside_fence", folder, nexuses=1, timeout=1200.0)


ROWS = {
    "preempts the holder": ({"host-a": [GUEST_KEY, True]}, {"guest"}),
    "reserves after a release": (
        {"n1": [NODE_KEY, False], "host-a": [GUEST_KEY, True]},
        {"guest", "n1"},
    ),
    "registers and reserves": ({"host-a": [GUEST_KEY, True]}, {"guest"}),
    "changes its key": ({"host-a": [OTHER_KEY, True]}, {"guest"}),
    "releases": ({"host-a": [GUEST_KEY, False]}, {"guest", "n1", "stranger"}),
    "is fenced": ({"n1": [NODE_KEY, True]}, {"n1"}),
}
"""Who is registered, and who holds; who can write."""


@pytest.mark.parametrize("row", ROWS)
def test_what_the_guest_did_on_the_destination_is_on_the_source(seen: Any, row: str) -> None:
    registrants, writers = ROWS[row]
    found = seen[row]
    assert found["state"] == "stayed"
    assert found["registrants"] == registrants
    assert found["types"] == ([WERO] if any(holds for _, holds in registrants.values()) else [])
    for name, said in found["writes"].items():
        assert (CONFLICT in said) == (name not in writers), (name, said)
    assert (found["stranger"] == "RESERVATION CONFLICT") == ("stranger" not in writers)
