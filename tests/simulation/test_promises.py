"""What the ledger of a simulation takes for a broken promise."""

from __future__ import annotations

import pytest

from holdover.lun.logical_unit import LogicalUnit
from holdover.scsi.cdbs.opcodes import OutServiceAction
from holdover.scsi.reservation.reservation_out import out_command
from tests.handover.work_rig import DESTINATION, KEY, SOURCE, Rig
from tests.simulation.clockwork import Broken
from tests.simulation.promises import Ledger

GUEST = "db1"


def unit_with(*keys: int) -> LogicalUnit:
    """A LUN on which the source has the first key, and the destination the second one."""
    rig = Rig()
    for nexus, key in zip((SOURCE, DESTINATION), keys, strict=False):
        rig.must(nexus, out_command(OutServiceAction.REGISTER, 0, key))
    return rig.unit


def test_what_a_host_has_beside_the_one_with_the_guest_is_left_behind() -> None:
    ledger = Ledger("lun0", lambda: 0.0)
    ledger.add(GUEST, {"host-a": (SOURCE,), "host-b": (DESTINATION,)})
    ledger.require_left(GUEST, "host-b", "host-a", unit_with(KEY).state)
    with pytest.raises(Broken, match="left behind on host-b"):
        ledger.require_left(GUEST, "host-b", "host-a", unit_with(KEY, KEY).state)


def test_what_two_hosts_with_one_initiator_name_have_is_not_left_behind_where_the_guest_is_on_one() -> None:
    ledger = Ledger("lun0", lambda: 0.0)
    ledger.add(GUEST, {"host-a": (DESTINATION,), "host-b": (SOURCE,), "host-c": (SOURCE,)})
    state = unit_with(KEY).state
    ledger.require_left(GUEST, "host-b", "host-c", state)
    with pytest.raises(Broken, match="left behind on host-b"):
        ledger.require_left(GUEST, "host-b", "host-a", state)
