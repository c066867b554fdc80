"""Multipath devices on a real kernel, with a real multipathd, beside mpathpersist and qemu-pr-helper."""

from __future__ import annotations

import re
from typing import Any

import pytest

from holdover.scsi.status import Status
from tests.rig.amounts import is_whole
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.peer("user-mode-linux", "multipath-tools", "qemu-system-common"),
    pytest.mark.xdist_group("kernel"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What was seen of a device over sda and sdb, and of sdc, a third nexus.

    Registrants are shown as "sda a*": the disk, the key, and a star on who holds the reservation.
    """
    folder = tmp_path_factory.mktemp("kernel")
    whole = "whole" if is_whole() else "brief"
    return observe("tests.peers.kernel_inside_multipath", folder, whole, nexuses=3, timeout=1500)


def test_every_path_is_registered_and_one_holds_the_reservation(seen: Any) -> None:
    assert seen["story"] == [
        "GOOD: sdc c",
        "GOOD: sda a, sdb a, sdc c",
        "0xa:aptpl 1",
        "RESERVATION CONFLICT: sda a, sdb a, sdc c",
        "RESERVATION CONFLICT: sda a, sdb a, sdc c",
        "GOOD: sda a*, sdb a, sdc c",
        "RESERVATION CONFLICT: sda a*, sdb a, sdc c",
        "RESERVATION CONFLICT: sda a*, sdb a, sdc c",
        "RESERVATION CONFLICT: sda a*, sdb a, sdc c",
        "GOOD: sda b*, sdb b, sdc c",
        "0xb 1",
        "GOOD: sda b*, sdb b, sdc c",
        "GOOD: sda b, sdb b, sdc c",
        "GOOD: sda b, sdb b",
        "GOOD: sda a, sdb a",
        "GOOD: ",
        "none 0",
    ]


def test_every_path_may_write_and_the_third_nexus_may_not(seen: Any) -> None:
    assert seen["writes"] == {
        "/dev/mapper/mpatha": "written",
        "/dev/sda": "written",
        "/dev/sdb": "written",
        "/dev/sdc": "Invalid exchange",
    }


def test_the_path_that_holds_it_may_fail_and_come_back(seen: Any) -> None:
    assert seen["one path fails"] == {
        "before": "GOOD: sda a*, sdb a",
        "read": "GOOD",
        # the other path takes the reservation over, and the registration of the one that is away goes
        "reserve": "GOOD: sda a*, sdb a",
        "release": "GOOD: sdb a",
        "back": ["sda a", "sdb a"],
    }


def test_multipathd_registers_a_path_that_comes_back_and_none_of_a_device_that_unregistered(
    seen: Any,
) -> None:
    assert seen["path comes back"] == {
        "registered": "GOOD: sda a",
        "back": ["sda a", "sdb a"],
        "unregistered": "GOOD: ",
        "not again": [],
    }


def test_a_path_that_lacks_the_registration_gets_it_and_the_reservation_stays(seen: Any) -> None:
    assert seen["a path lacks it"]["ours"] == "GOOD: sda a*, sdb a"


def test_a_release_of_the_wrong_type_changes_nothing(seen: Any) -> None:
    assert seen["a wrong release"]["ours"] == "RESERVATION CONFLICT: sda a*, sdb a, sdc c"


def test_why_mpathpersist_is_not_what_does_it(seen: Any) -> None:
    """Should this fail with a newer version: docs/develop/design.md tells what to think over."""
    assert seen["a path lacks it"]["mpathpersist"] == "11: ", "the reservation is gone"
    assert seen["a wrong release"]["mpathpersist"] == "0: sda a, sdb a", "and sdc's registration with it"


@pytest.mark.long
def test_where_nothing_is_amiss_mpathpersist_leads_to_the_same(seen: Any) -> None:
    assert seen["beside mpathpersist"]["ours"] == seen["beside mpathpersist"]["mpathpersist"]
    assert seen["beside mpathpersist"]["ours"][2] == "0: sda b*, sdb b, sdc c; 0xb 1"


def test_the_helper_registers_every_path(seen: Any) -> None:
    registered = seen["helpers"]["registered"]
    assert registered["ours"] == [Status.GOOD, ["sda a", "sdb a"]]
    # Debian builds it without libmpathpersist: the kernel chooses a path, and the other one is left out
    assert registered["qemu"] in ([Status.GOOD, ["sda a"]], [Status.GOOD, ["sdb a"]])


def test_the_helper_answers_byte_for_byte_as_the_logical_unit_does(seen: Any) -> None:
    reads = seen["helpers"]["reads"]
    assert len(reads) == 15
    for name, answers in reads.items():
        assert answers["ours"] == answers["qemu"], name
    assert {answers["ours"][0] for answers in reads.values()} == {Status.GOOD, Status.CHECK_CONDITION}
    for ours, direct in seen["helpers"]["failing"]:
        assert ours == direct
    assert [ours[0] for ours, _ in seen["helpers"]["failing"]].count(Status.RESERVATION_CONFLICT) == 4
    assert seen["helpers"]["ends"] == [0, 0]


@pytest.mark.long
def test_an_agent_with_the_capabilities_of_its_unit_serves_the_guest(seen: Any) -> None:
    found = seen["agent"]
    assert found["register"] == [Status.GOOD, "sda a", "sdb a"]
    assert found["reserve"] == [Status.GOOD, "sda a*", "sdb a"]
    assert found["wrong key"] == [Status.RESERVATION_CONFLICT, "sda a*", "sdb a"]
    # SIP_C and ATP_C, byte 2, are masked
    assert (found["unmasked"], found["capabilities"]) == ("00081d91ea010000", "00081191ea010000")
    assert (found["group"], found["end"]) == (65534, 0)


@pytest.mark.long
def test_holdover_pr_takes_the_device(seen: Any) -> None:
    assert seen["by hand"] == ["0: REGISTER: GOOD", "sda a", "sdb a"]


@pytest.mark.long
def test_the_page_as_typed(seen: Any) -> None:
    """docs/how-to/multipath.md"""
    found = seen["as typed"]
    assert found["restart"] == "systemctl restart multipathd.service"
    assert found["paths"].count("active ready running") == 2, found["paths"]
    judged = [each.split()[0] for each in found["doctor"].splitlines() if " multipath: " in each]
    assert judged == ["ok", "ok"], found["doctor"]
    assert len(re.findall(r"^0xa ", found["status"], re.MULTILINE)) == 2, found["status"]


def test_the_logical_unit_is_found_once_for_all_its_paths(seen: Any) -> None:
    assert seen["known as"] == {
        "found": ["/dev/dm-0", "/dev/sdc"],
        "own": "naa.600140500000001f00d0000000000000",
        "nexuses": {"/dev/mapper/mpatha": 2, "/dev/sdc": 1},
    }


def test_without_multipathd_questions_are_asked_and_nothing_is_changed(seen: Any) -> None:
    assert seen["without multipathd"] == {
        "no keys": "PathError: multipathd: it would not register new paths of mpatha; put `reservation_key "
        "file` into the defaults of /etc/multipath.conf, then run `multipathd reconfigure`",
        "register": "PathError: mpatha: multipathd: it does not run; start it: systemctl start multipathd",
        "read": "GOOD",
    }
