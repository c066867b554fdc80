"""SG_IO of ours on real disks of a real kernel, beside sg3-utils'."""

from __future__ import annotations

from typing import Any

import pytest

from holdover.scsi.inquiry import Designator
from holdover.scsi.reservation.reservation_in import FullStatus
from holdover.scsi.reservation.transport_id import SasTransportID
from tests.peers.kernel_inside_sgio import LENGTHS
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer("user-mode-linux", "sg3-utils"),
    pytest.mark.xdist_group("kernel"),
]

LUN = "naa.600140500000001f00d0000000000000"
SG_RAW_GOOD, SG_RAW_ILLEGAL_REQUEST = 0, 5
GOOD = "GOOD"
CONFLICT = "RESERVATION CONFLICT"
INVALID_FIELD = "CHECK CONDITION: ILLEGAL REQUEST, INVALID FIELD IN CDB (5h 24h/00h)"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return observe("tests.peers.kernel_inside_sgio", tmp_path_factory.mktemp("kernel"), nexuses=3)


def test_every_answer_is_byte_for_byte_that_of_sg_raw(seen: Any) -> None:
    assert len(seen["compared"]) == 6 * 6 * len(LENGTHS)
    good = 0
    for case in seen["compared"]:
        words, data, _ = case["ours"]
        status, theirs = case["sg_raw"]
        assert data == theirs, case
        assert status == (SG_RAW_GOOD if words == GOOD else SG_RAW_ILLEGAL_REQUEST), case
        good += words == GOOD
    assert good == 6 * 4 * (len(LENGTHS) - 1), "four service actions exist, and 4 bytes are too few for each"


def test_what_is_wrong_with_a_command_comes_back(seen: Any) -> None:
    reserved = [case for case in seen["compared"] if case["action"] > 3]
    assert {case["ours"][0] for case in reserved} == {INVALID_FIELD}


def test_reservations_are_taken_and_conflict(seen: Any) -> None:
    attention = "CHECK CONDITION: UNIT ATTENTION, REGISTRATIONS PREEMPTED (6h 2Ah/05h)"
    assert seen["ends"] == {
        "register": GOOD,
        **{f"{what} {kind}": GOOD for kind in (1, 5, 8) for what in ("reserve", "release")},
        "wrong key": CONFLICT,
        "wrong type": INVALID_FIELD,
        "reserved by another": CONFLICT,
        "preempt": GOOD,
        "preempted, first": attention,
        "preempted, second": GOOD,
        "clear": GOOD,
    }


def test_every_name_of_a_disk_leads_to_it(seen: Any) -> None:
    assert set(seen["names"]) == {"sda", "sg0", "by-id"}
    assert len(set(seen["names"].values())) == 1
    (registrant,) = FullStatus.decode(bytes.fromhex(seen["names"]["by-id"])).descriptors
    assert registrant.key == 0xA
    assert registrant.transport_id == SasTransportID(bytes.fromhex("6001405000000001"))


def test_a_lun_is_found_by_its_designator_on_every_nexus(seen: Any) -> None:
    assert seen["designators"] == {
        "designators": [LUN, LUN],
        "disks": ["/dev/sda", "/dev/sdb", "/dev/sdc"],
    }
    assert str(Designator.parse(LUN)) == LUN


def test_a_missing_capability_is_named(seen: Any) -> None:
    expected = "PathError disk: SG_IO: Operation not permitted (CAP_SYS_RAWIO is needed)"
    assert seen["unprivileged"] == expected


def test_a_disk_that_has_gone_is_in_doubt_and_then_not_there(seen: Any) -> None:
    first, second = seen["gone"]
    assert first.startswith("in doubt: /dev/sdc:")
    assert second == "not sent: /dev/sdc: No such file or directory"
