"""The Linux kernel's own iSCSI initiator on an embedded LUN: a file system, and reservations that hold."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer("user-mode-linux", "open-iscsi", "sg3-utils", "e2fsprogs"),
    pytest.mark.xdist_group("kernel"),
]

CONFLICT = "Invalid exchange"
"""EBADE, which is what Linux makes of RESERVATION CONFLICT."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return observe("tests.peers.kernel_inside_iscsi", tmp_path_factory.mktemp("kernel"), nexuses=1)


def test_the_kernel_logs_in_and_sees_the_disk(seen: Any) -> None:
    assert "EMBEDDED LUN" in seen["inquiry"]


def test_a_file_system_keeps_what_was_written(seen: Any) -> None:
    assert not [answer for answer in seen["answers"] if answer.startswith("status")], seen["answers"]
    assert seen["same"]
    assert seen["bytes"] == 3 << 20


def test_the_kernel_is_shut_out_by_a_reservation_and_let_in_by_a_registration(seen: Any) -> None:
    assert CONFLICT in seen["shut out"]["write"]
    assert not seen["shut out"]["read"].startswith("status")
    assert not seen["register"].startswith("status")
    assert not seen["registered"]["write"].startswith("status")
    holders = {name.partition(",")[0]: holds for name, holds in seen["registrants"].items()}
    assert holders == {"iqn.2026-11.org.example:other": True, "iqn.2026-11.org.example:kernel": False}


def test_a_preempted_kernel_is_shut_out_again(seen: Any) -> None:
    assert CONFLICT in seen["preempted"]["again"]
