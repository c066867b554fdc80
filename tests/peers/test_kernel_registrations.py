"""Guests on multipath devices of which paths are down: a real kernel with its LUN, a real multipathd."""

from __future__ import annotations

from typing import Any

import pytest

from holdover.scsi.cdbs.opcodes import ReservationType
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer("user-mode-linux", "multipath-tools"),
    pytest.mark.xdist_group("kernel"),
]

KINDS = tuple(each.short_name for each in ReservationType)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What was seen in each row.

    host-a has the LUN by mpatha, over sda and sdb; host-b by sde, or by mpathb, over sdc and sdd; sdf is a
    third node. Registrants are shown as "sda abc*": the disk, the key, and a star on who holds the
    reservation.
    """
    folder = tmp_path_factory.mktemp("kernel")
    return observe("tests.peers.kernel_inside_registrations", folder, *KINDS, nexuses=6, timeout=1800)


def ended(answer: list[Any]) -> tuple[int, str]:
    """A command's exit status, and who is registered after it."""
    status, _, registered = answer
    return status, registered


@pytest.mark.parametrize("kind", ["wero", "we"])
def test_a_commit_and_a_roll_back_with_a_path_of_the_source_down(seen: Any, kind: str) -> None:
    found = seen["A"][kind]
    assert found["guest"] == "GOOD GOOD: sda abc*"
    assert ended(found["prepare"]) == (0, "sda abc*, sde abc")
    assert ended(found["commit"]) == (0, "sde abc*")
    assert ended(found["rollback"]) == (0, "sda abc*")
    assert found["third writes"] == "Invalid exchange"
    assert found["release"] == "GOOD: sda abc, sdb abc", "multipathd has registered the path that is back"
    assert found["unregister"] == "GOOD: "


def test_the_same_with_a_path_that_was_registered_before_it_failed(seen: Any) -> None:
    found = seen["A"]["registered before"]
    assert ended(found["prepare"]) == (0, "sda abc*, sdb abc, sde abc")
    assert found["commit"][0] == 0
    assert "sde abc*" in found["commit"][2]
    assert "sda" not in found["commit"][2]
    assert ended(found["rollback"]) == (0, "sda abc*, sdb abc")
    assert found["third writes"] == "Invalid exchange"
    assert found["release"] == "GOOD: sda abc, sdb abc"


def test_a_dead_destination_is_removed_with_a_path_of_the_source_down(seen: Any) -> None:
    found = seen["B"]
    assert ended(found["prepare"]) == (0, "sda abc*, sde abc, sdf 77")
    assert ended(found["rollback"]) == (0, "sda abc*, sdf 77")
    assert found["destination writes"] == "Invalid exchange"


def test_a_take_that_would_hurt_a_third_node_is_refused_with_a_path_of_the_source_down(seen: Any) -> None:
    found = seen["C"]
    assert ended(found["prepare"]) == (0, "sda abc*, sde abc, sdf abc")
    status, said, registered = found["take"]
    assert status != 0
    assert "is registered on a third nexus too" in said
    assert registered == "sda abc*, sde abc, sdf abc"
    assert found["third writes"] == "written"


def test_both_hosts_have_a_path_down(seen: Any) -> None:
    found = seen["E"]
    assert found["guest"] == "GOOD GOOD: sda abc*"
    for step in ("prepare", "prepare again"):
        assert ended(found[step]) == (0, "sda abc*, sdc abc")
    assert ended(found["commit"]) == (0, "sdc abc*")
    for step in ("rollback", "rollback again"):
        assert ended(found[step]) == (0, "sda abc*")


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_unregisters_while_the_path_that_holds_its_reservation_is_away(seen: Any, kind: str) -> None:
    # of the types for all registrants the third node is a holder too
    star = "*" if kind.endswith("ar") else ""
    assert seen["G"][f"unregister {kind}"] == f"GOOD: sdf 77{star}"
    assert seen["G"][f"again {kind}"] == ["GOOD", "GOOD"], "it does not conflict with itself"


def test_it_is_refused_while_a_third_node_has_the_same_key(seen: Any) -> None:
    assert seen["G"]["third has the key"] == "CHECK_CONDITION: sda abc*, sdb abc, sdf abc"
    assert seen["G"]["path is back"] == "GOOD: sdf abc"


def test_what_else_a_guest_may_send_while_the_path_that_holds_its_reservation_is_away(seen: Any) -> None:
    found = seen["G"]
    assert found["change the key"] == "GOOD: sdb def*, sdf 77"
    assert found["register and ignore"] == "GOOD: sdb def*, sdf 77"
    assert found["unregister and ignore"] == "GOOD: sdf 77"
    assert found["reserve"] == "GOOD: sda abc*, sdb abc, sdf 77"
    assert found["release"] == "GOOD: sdb abc, sdf 77"
    assert found["preempt the own key"] == "GOOD: sdb abc*, sdf 77"
    assert found["preempt the third"] == "GOOD: sda abc*, sdb abc"
    assert found["clear"] == "GOOD: "
