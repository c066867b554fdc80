"""Processes that say they are somebody else's guest: as other users, on real disks of a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from tests.peers.kernel_inside_names import KEY, NOBODY, QEMU_UID
from tests.rig.kernel import observe

pytestmark = [pytest.mark.peer("user-mode-linux"), pytest.mark.xdist_group("kernel")]

GOOD = "GOOD"
REFUSED = "CHECK CONDITION: ILLEGAL REQUEST, LOGICAL UNIT NOT SUPPORTED (5h 25h/00h)"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kernel")
    return observe("tests.peers.kernel_inside_names", folder, nexuses=1, luns=2)


def test_a_process_without_a_disk_erases_nothing(seen: Any) -> None:
    # at 847e57f the guest was forgotten, and its registration stayed on the LUN, unknown to all
    assert seen["erasure"] == {"register": GOOD, "keys": [KEY], "recorded": ["/dev/sda"]}


def test_another_user_is_not_the_guest_though_he_may_open_its_disk(seen: Any) -> None:
    found = seen["impersonation"]
    assert (found["said"], found["keys"]) == (REFUSED, [KEY])
    assert found["victim"] == GOOD, "the guest itself comes back"
    (warning,) = found["warnings"]
    assert f"(uid {NOBODY}" in warning
    assert f"guest victim has been known as uid {QEMU_UID}" in warning
    assert f'write into the agent\'s file: [[rule]] guest = "victim" uid = {NOBODY}' in warning


def test_an_operators_rule_accepts_a_change_and_it_is_on_record_from_then_on(seen: Any) -> None:
    found = seen["impersonation"]
    assert (found["accepted by rule"], found["on record since"]) == (GOOD, GOOD)


@pytest.mark.parametrize("name", ["listed", "unlisted"])
def test_a_process_without_a_disk_keeps_nobody_out(seen: Any, name: str) -> None:
    found = seen["squatting"]
    # at 847e57f the guest's own QEMU was refused for as long as the other process ran
    assert found[name] == [GOOD, GOOD]
    assert found[f"{name}, late"] == REFUSED
    assert found[f"{name}, after"] == [GOOD, [0]]


def test_a_guest_with_a_socket_of_its_own_does_not_come_by_another(seen: Any) -> None:
    assert seen["squatting"]["boxed"] == REFUSED


def test_refused_claims_are_shown(seen: Any) -> None:
    warnings = seen["squatting"]["warnings"]
    assert [each.split(":")[0] for each in warnings] == ["guest listed", "guest boxed"]
    assert all("nothing was changed" in each for each in warnings)


def test_what_is_tracked_outlives_a_qemu_that_moves_it_itself(seen: Any) -> None:
    found = seen["left to QEMU"]
    assert found["gates"] == ["MOVED BY QEMU"]
    assert (found["register"], found["read"], found["unregister"]) == (GOOD, GOOD, GOOD)
    assert found["keys"] == [KEY]
    assert found["forgotten"]
