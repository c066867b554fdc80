"""What follows from a QEMU process that appears, for each gate of the guest."""

from __future__ import annotations

import pytest

from holdover.guest.gate import Gate
from holdover.placement.appearance import Appearance, appear

NOTHING, ARRIVES, STARTS = Appearance


@pytest.mark.parametrize(
    ("gate", "starts", "waits", "waits_without_devices"),
    [
        (None, STARTS, ARRIVES, ARRIVES),
        (Gate.RUNNING, NOTHING, NOTHING, ARRIVES),
        (Gate.INCOMING, STARTS, NOTHING, NOTHING),
        (Gate.LEAVING, STARTS, NOTHING, ARRIVES),
        (Gate.DEPARTED, STARTS, ARRIVES, ARRIVES),
    ],
)
def test_only_a_guest_that_runs_here_by_this_hosts_record_is_not_claimed(
    gate: Gate | None, starts: Appearance, waits: Appearance, waits_without_devices: Appearance
) -> None:
    for devices in (False, True):
        assert appear(gate, incoming=False, has_devices=devices) is starts
    assert appear(gate, incoming=True, has_devices=True) is waits
    assert appear(gate, incoming=True, has_devices=False) is waits_without_devices
