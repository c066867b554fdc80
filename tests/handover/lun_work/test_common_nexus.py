"""Two hosts that are one nexus are found out before anything is registered, by whatever the LUN shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.common_nexus import require_own_nexus
from holdover.handover.lun_work.work import Work
from holdover.reservations.steps import StepFailed
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation.reservation_out import out_command
from tests.handover.work_rig import DESTINATION, KEY, OTHER, SOURCE, THIRD, Rig

PORTS = (str(SOURCE.initiator), str(DESTINATION.initiator))


def looked_at(rig: Rig, kind: ReservationType | None, port: str) -> LunHandover:
    """The LUN as the source has looked at it, and tells the destination of it."""
    lun = LunHandover("naa.1", tracked=Tracked(KEY, type=kind), port=port)
    return rig.work(SOURCE, Work.CHECK, lun)


@given(
    is_one=st.booleans(),
    kind=st.sampled_from([None, *ReservationType]),
    third_key=st.sampled_from([0, OTHER, KEY]),
    left_over=st.booleans(),
    ports_known=st.booleans(),
)
def test_one_nexus_is_refused_and_two_that_can_be_told_apart_are_not(
    is_one: bool, kind: ReservationType | None, third_key: int, left_over: bool, ports_known: bool
) -> None:
    rig = Rig()
    here = SOURCE if is_one else DESTINATION
    registrations = [(SOURCE, KEY)]
    if third_key:
        registrations.append((THIRD, third_key))
    if left_over and not is_one:
        registrations.append((DESTINATION, KEY))
    for who, key in registrations:
        assert rig.tell(who, out_command(OutServiceAction.REGISTER, 0, key)).good
    if kind is not None:
        assert rig.tell(SOURCE, out_command(OutServiceAction.RESERVE, KEY, type=kind)).good
    lun = looked_at(rig, kind, PORTS[0] if ports_known else "")
    before = rig.unit.state
    port = str(here.initiator) if ports_known else ""
    # where the ports are not known, what is left over from before may be the source's own
    refused = is_one or (left_over and not ports_known)
    steps = require_own_nexus(lun, port, "host-a", "host-b")
    if refused:
        with pytest.raises(StepFailed) as error:
            rig.run(here, steps)
        assert "host-a" in str(error.value)
        assert "host-b" in str(error.value)
        certain = "one and the same nexus" in str(error.value)
        assert certain is (is_one and (ports_known or third_key != KEY))
    else:
        rig.run(here, steps)
    assert replace(rig.unit.state, generation=before.generation) == before


@pytest.mark.parametrize("lun", [LunHandover("naa.1", migrate_pr=False), LunHandover("naa.1")])
def test_where_nothing_moves_nothing_is_asked(lun: LunHandover) -> None:
    rig = Rig()
    rig.run(SOURCE, require_own_nexus(lun, "", "host-a", "host-b"))
    assert rig.sent == 0


def test_a_registration_of_this_handover_whose_record_is_lost_is_no_sign() -> None:
    rig = Rig()
    assert rig.tell(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY)).good
    lun = rig.work(DESTINATION, Work.REGISTER, looked_at(rig, None, ""))
    lun = rig.work(SOURCE, Work.CONFIRM, lun)
    rig.run(DESTINATION, require_own_nexus(lun, "", "host-a", "host-b"))
