"""`holdover pr-helper` and an agent's helper beside qemu-pr-helper, on real disks of a real kernel.

They give the same answers, but for what `migrate-pr` hides from a guest.
"""

from __future__ import annotations

from typing import Any

import pytest

from holdover.helper.privileges import CAP_SYS_RAWIO
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer("user-mode-linux", "qemu-system-common"),
    pytest.mark.xdist_group("kernel"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return observe("tests.peers.kernel_inside_pr_helper", tmp_path_factory.mktemp("kernel"), nexuses=3)


def test_every_answer_is_byte_for_byte_that_of_qemus_helper(seen: Any) -> None:
    assert len(seen["reads"]) == 220
    for case in seen["reads"]:
        assert case["ours"] == case["qemu"], case["name"]
    changes = [case["ours"][0] for case in seen["reads"] if ": OUT, " in case["name"]]
    assert len(changes) == 2 * 68
    assert Status.GOOD not in changes
    ends = [case["ours"][0] for case in seen["reads"]]
    assert ends.count(Status.GOOD) >= 2 * 4 * 4, "the four service actions there are, in both states"
    assert Status.CHECK_CONDITION in ends
    assert Status.RESERVATION_CONFLICT in ends
    assert ends.count("disconnected") == 2 * 7, "what is longer than 8 KiB breaks the protocol"


def masked(answer: list[Any]) -> list[Any]:
    """REPORT CAPABILITIES as a guest with migrate-pr is to see it: SIP_C and ATP_C are 0."""
    status, payload, sense = answer
    data = bytearray.fromhex(payload)
    if len(data) > 2:
        data[2] &= ~0x0C
    return [status, data.hex(), sense]


def test_through_an_agent_they_are_as_well_but_for_what_is_hidden(seen: Any) -> None:
    hidden = {"REGISTER, flags 04", "REGISTER, flags 08"}
    refusals = set()
    for case in seen["reads"]:
        name = case["name"].partition(": ")[2]
        if name.startswith("IN 2,"):
            assert case["agent"] == masked(case["qemu"]), case["name"]
        elif name.removeprefix("OUT, ") in hidden or name.startswith("OUT, REGISTER AND MOVE"):
            sense = decode_sense(bytes.fromhex(case["agent"][2]))
            refusals.add(sense.additional)
        else:
            assert case["agent"] == case["qemu"], case["name"]
    # what SIP_C and ATP_C are about, and a move to another nexus, of which the agent would not know
    assert refusals == {
        AdditionalSense.INVALID_FIELD_IN_CDB,
        AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST,
    }
    capabilities = [case["agent"] != case["qemu"] for case in seen["reads"] if ": IN 2, 8 " in case["name"]]
    assert capabilities == [True, True], "the LUN has both bits"


def test_a_whole_story_goes_the_same_way(seen: Any) -> None:
    ours, qemu = seen["story"]["ours"], seen["story"]["qemu"]
    assert ours == qemu
    commands = ours[::4]
    assert [each[0] for each in commands].count(Status.GOOD) == 13
    assert [each[0] for each in commands].count(Status.RESERVATION_CONFLICT) == 3
    attentions = [
        decode_sense(bytes.fromhex(sense))
        for status, _, sense in commands
        if status == Status.CHECK_CONDITION
    ]
    assert [(each.key, each.additional) for each in attentions] == [
        (SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_RELEASED),
        (SenseKey.UNIT_ATTENTION, AdditionalSense.REGISTRATIONS_PREEMPTED),
        (SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_PREEMPTED),
    ]


def test_the_agents_own_questions_are_answered_by_a_helper_that_refuses_more_than_8192_bytes(
    seen: Any,
) -> None:
    for helper in ("ours", "qemu"):
        assert seen["questions"][helper] == {
            "keys": [0xA, 0xB],
            "held": 0xA,
            "full status": [0xA, 0xB],
            "own": [0xA, 6, False, True],
        }


def test_who_may_only_read_a_disk_may_not_reserve_it(seen: Any) -> None:
    answers = seen["read only"]
    assert answers["IN ours"] == answers["IN qemu"]
    assert answers["IN ours"][0] == Status.GOOD
    assert answers["OUT ours"] == answers["OUT qemu"]
    refusal = decode_sense(bytes.fromhex(answers["OUT ours"][2]))
    assert refusal.additional == AdditionalSense.INVALID_COMMAND_OPERATION_CODE


def test_one_capability_is_all_that_is_kept(seen: Any) -> None:
    only = f"{1 << CAP_SYS_RAWIO:016x}"
    assert seen["identity"] == {
        "Uid": " ".join(["65534"] * 4),
        "Gid": " ".join(["65534"] * 4),
        "Groups": "",
        "CapEff": only,
        "CapPrm": only,
        "CapBnd": "0" * 16,
        "NoNewPrivs": "1",
    }


def test_the_helpers_end_in_peace(seen: Any) -> None:
    assert seen["ends"] == [0, 0, 0]
    assert all(0 < median <= late for median, late in seen["latency"].values())
