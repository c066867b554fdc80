"""Guests that no file names, on real disks: processes that pretend to be QEMU at an agent's front end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.peers.kernel_inside_attach import KEY, LUN, OTHER_LUN, UUID
from tests.rig.kernel import observe

pytestmark = [pytest.mark.long, pytest.mark.peer("user-mode-linux"), pytest.mark.xdist_group("kernel")]

GOOD = "GOOD"
REFUSED = "CHECK CONDITION: ILLEGAL REQUEST, LOGICAL UNIT NOT SUPPORTED (5h 25h/00h)"
HELD = [["/dev/sda", "running", True, KEY, False]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return observe("tests.peers.kernel_inside_attach", tmp_path_factory.mktemp("kernel"), nexuses=2)


def test_a_guest_is_made_with_its_disk_as_it_comes(seen: Any) -> None:
    found = seen["restarts"]
    assert found["masked"]
    assert (found["register"], found["reserve"]) == (GOOD, GOOD)
    assert found["guests"] == {"boxed": [], "db1": HELD}
    assert found["open"] == ["/dev/sda"]


def test_a_guest_that_has_ended_is_remembered_with_what_it_holds_and_its_disk_is_let_go(seen: Any) -> None:
    found = seen["restarts"]
    assert found["open after"] == []
    assert found["remembered"] == {"boxed": [], "db1": HELD}
    assert found["on record"] == {"boxed": [], "db1": HELD}
    assert found["again"] == GOOD
    assert found["remembered again"] == {"boxed": [], "db1": HELD}


def test_one_that_holds_nothing_is_forgotten(seen: Any) -> None:
    found = seen["restarts"]
    assert found["unregister"] == GOOD
    assert found["closed"] == []
    assert found["forgotten"] == {"boxed": []}


def test_whoever_cannot_be_that_guest_is_refused_with_the_reason(seen: Any) -> None:
    found = seen["restarts"]
    cases = ("twice", "another process", "same name, other UUID", "other nexus")
    assert [found[case] for case in cases] == [REFUSED] * 4
    assert seen["rules"]["nameless"] == REFUSED
    twice, another, same_name, other_nexus, nameless = seen["refused"]
    assert f"guest db1 has LUN {LUN} twice, as /dev/sda and as /dev/sdb; give it one of them" in twice
    assert "has the name of guest db1, but process " in another
    assert f"guest db1 with UUID {UUID.format(2)}, and the guest of that name that" in same_name
    assert f"registered on LUN {LUN} as /dev/sda, and has it now as /dev/sdb, which is" in other_nexus
    assert "has neither -name nor -uuid; start QEMU with -name GUEST, or" in nameless


def test_the_first_rule_that_matches_wins_over_the_machine_type(seen: Any) -> None:
    # on for every guest on this LUN, but for win-*; the machine types say the opposite
    assert seen["rules"]["win-7"] == [["/dev/sda", "running", False, 0, False]]
    assert not seen["rules"]["masked"]
    assert seen["restarts"]["guests"]["db1"] == HELD


def test_whoever_comes_by_the_socket_of_a_guest_is_that_guest(seen: Any) -> None:
    assert seen["rules"]["own socket"] == GOOD
    assert seen["rules"]["boxed"] == [["/dev/sda", "running", True, 0, False]]


@pytest.mark.provokes("qemu-moves-itself")
def test_a_guest_whose_qemu_moves_reservations_itself_is_left_to_it(seen: Any) -> None:
    found = seen["left to QEMU"]
    assert not found["masked"]
    assert found["register"] == GOOD
    assert found["guests"] == [["/dev/sda", "MOVED BY QEMU", False, 0, False]]
    assert found["leave"].startswith("guest new: its QEMU moves its reservations itself")
    assert found["expect"].startswith("guest new: its QEMU on this host moves its reservations itself")
    assert found["after"] == ["boxed"]


def test_a_guest_that_is_expected_gets_the_disk_that_its_qemu_has_open(seen: Any) -> None:
    found = seen["arrivals"]
    assert found["connected"]["db2"] == []
    assert found["expected"] == "expected"
    assert found["guests"] == [["/dev/sdb", "incoming", True, 0, False]]
    assert found["once more"] == "expected"
    assert found["held"]
    assert found["answer"] == GOOD
    assert found["open"] == ["/dev/sdb"]
    assert found["closed"] == []


def test_what_cannot_be_expected_is_said_and_nothing_is_made(seen: Any) -> None:
    found = seen["arrivals"]
    assert f"this host has LUN {LUN} as /dev/sda and /dev/sdb, each an I_T nexus" in found["no QEMU yet"]
    assert found["nothing was made"] == ["boxed"]
    assert f"guest db2: this host has no disk of LUN {OTHER_LUN}" in found["no such LUN"]
    assert found["no device"] == []


def test_a_guest_that_came_unannounced_waits_and_then_runs(seen: Any) -> None:
    found = seen["arrivals"]["unannounced"]
    assert found["held"]
    assert found["before"] == [["/dev/sda", "incoming", True, 0, False]]
    assert found["answer"] == GOOD
    assert found["after"] == [["/dev/sda", "running", True, 0, False]]
