"""The work on a LUN of a host that was restarted, and of a source whose destination has left a spare key."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from holdover.handover.lun_handover import UNREGISTERED, LunHandover, Registrations
from holdover.handover.lun_work.work import Work
from holdover.reservations.steps import StepFailed
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation.reservation_out import out_command
from tests.handover.work_rig import (
    DESTINATION,
    FORWARD,
    FRESH,
    INTRUDER,
    KEY,
    OTHER,
    SOURCE,
    SPARE_BACK,
    THIRD,
    Case,
    Rig,
    forward,
)

_KIND = ReservationType.WRITE_EXCLUSIVE
_OUT = OutServiceAction


def rig_and_lun(stages: int) -> tuple[Rig, LunHandover]:
    case = Case(_KIND, guest_holds=True, third_key=OTHER, aptpl=False)
    rig = case.set_up()
    lun = forward(rig, case, stages)
    rig.watch = lambda: None
    return rig, lun


def takes(rig: Rig, key: int) -> None:
    """The destination has taken the guest, with its spare key so far or completely."""
    rig.must(DESTINATION, out_command(_OUT.REGISTER, KEY, SPARE_BACK))
    rig.must(DESTINATION, out_command(_OUT.PREEMPT, SPARE_BACK, KEY, type=_KIND))
    if key != SPARE_BACK:
        rig.must(DESTINATION, out_command(_OUT.REGISTER, SPARE_BACK, key))


@pytest.mark.parametrize("key", [SPARE_BACK, KEY, 0x77])
def test_a_source_finds_that_its_registration_was_taken_and_changes_nothing(key: int) -> None:
    rig, lun = rig_and_lun(3)
    assert not rig.work(SOURCE, Work.RECOUNT, lun).lost
    takes(rig, key)
    before = rig.registrations(), rig.holder()
    assert rig.work(SOURCE, Work.RECOUNT, lun) == replace(lun, lost=True)
    with pytest.raises(StepFailed, match="not registered here"):
        rig.work(SOURCE, Work.ASSESS, lun)
    assert (rig.registrations(), rig.holder()) == before


def test_a_source_that_is_registered_with_another_key_has_lost_nothing() -> None:
    rig, lun = rig_and_lun(3)
    rig.must(SOURCE, out_command(_OUT.REGISTER, KEY, 0x77))
    assert not rig.work(SOURCE, Work.RECOUNT, lun).lost


def test_a_guest_that_was_not_registered_and_is_taken_shows_by_a_new_key() -> None:
    rig, lun = rig_and_lun(0)
    rig.must(SOURCE, out_command(_OUT.REGISTER, KEY, 0))
    bare = replace(lun, tracked=UNREGISTERED, others=(OTHER,))
    assert not rig.work(SOURCE, Work.RECOUNT, bare).lost
    rig.must(DESTINATION, out_command(_OUT.REGISTER, 0, 0x77))
    assert rig.work(SOURCE, Work.RECOUNT, bare).lost


@pytest.mark.parametrize(("full_status", "lost"), [(True, False), (False, True)])
def test_a_third_nodes_new_key_is_a_sign_only_where_the_lun_names_no_ports(
    full_status: bool, lost: bool
) -> None:
    rig, lun = rig_and_lun(0)
    rig.full_status = full_status
    rig.must(SOURCE, out_command(_OUT.REGISTER, KEY, 0))
    ports = Registrations(ports=(str(DESTINATION.initiator),))
    bare = replace(lun, tracked=UNREGISTERED, others=(OTHER,), port=str(SOURCE.initiator), destination=ports)
    rig.must(INTRUDER, out_command(_OUT.REGISTER, 0, 0x77))
    assert rig.work(SOURCE, Work.RECOUNT, bare).lost == lost
    rig.must(DESTINATION, out_command(_OUT.REGISTER, 0, 0x77))
    assert rig.work(SOURCE, Work.RECOUNT, bare).lost


def test_a_guest_that_had_begun_to_register_keeps_the_aptpl_that_it_asked_for() -> None:
    rig, lun = rig_and_lun(0)
    rig.must(SOURCE, out_command(_OUT.REGISTER, KEY, KEY, aptpl=True))
    bare = replace(lun, tracked=UNREGISTERED, others=(OTHER,))
    assert not rig.work(SOURCE, Work.RECOUNT, bare, candidates=(0, KEY)).lost
    assert rig.unit.state.aptpl


def test_a_source_whose_guest_was_fenced_on_both_hosts_can_go_on_alone() -> None:
    rig, lun = rig_and_lun(3)
    rig.must(THIRD, out_command(_OUT.PREEMPT, OTHER, KEY, type=_KIND))
    assert rig.work(SOURCE, Work.RECOUNT, lun).lost
    found = rig.work(SOURCE, Work.ISOLATE, rig.work(SOURCE, Work.ASSESS, lun))
    assert found.tracked == UNREGISTERED
    assert rig.registrations() == {THIRD: OTHER}


@pytest.mark.parametrize("amid", [True, False])
def test_a_destination_finds_that_the_source_has_rolled_back_without_it(amid: bool) -> None:
    rig, lun = rig_and_lun(len(FORWARD))
    assert rig.work(DESTINATION, Work.REASSURE, lun) == lun
    rig.must(SOURCE, out_command(_OUT.REGISTER, 0, FRESH))
    rig.must(SOURCE, out_command(_OUT.PREEMPT, FRESH, KEY, type=_KIND))
    if not amid:
        rig.must(SOURCE, out_command(_OUT.REGISTER, FRESH, KEY))
    before = rig.registrations(), rig.holder()
    with pytest.raises(StepFailed, match="the source was back"):
        rig.work(DESTINATION, Work.REASSURE, lun)
    assert (rig.registrations(), rig.holder()) == before
    # Once the source has conceded, or an operator says that it never comes back, everything is taken again.
    rig.work(DESTINATION, Work.TAKE, replace(lun, conceded=True))
    assert rig.registrations() == {DESTINATION: KEY, THIRD: OTHER}
    assert rig.holder() == (_KIND, DESTINATION)


def test_a_fence_of_a_guest_that_was_taken_is_no_roll_back() -> None:
    rig, lun = rig_and_lun(len(FORWARD))
    rig.must(THIRD, out_command(_OUT.PREEMPT, OTHER, KEY, type=_KIND))
    assert rig.work(DESTINATION, Work.REASSURE, lun) == lun


@pytest.mark.parametrize("key", [0x77, 0])
def test_what_a_guest_that_was_taken_has_changed_is_no_roll_back(key: int) -> None:
    rig, lun = rig_and_lun(len(FORWARD))
    rig.must(DESTINATION, out_command(_OUT.REGISTER, KEY, key))
    assert rig.work(DESTINATION, Work.REASSURE, lun, candidates=(KEY, 0x77)) == lun


def test_a_spare_key_of_the_destination_is_removed_by_the_source() -> None:
    rig, lun = rig_and_lun(3)
    rig.must(DESTINATION, out_command(_OUT.REGISTER, KEY, SPARE_BACK))
    stray = replace(lun, preempted_key=SPARE_BACK, alarm="1 registration remains")
    found = rig.work(SOURCE, Work.DISCARD, stray)
    assert (found.preempted_key, found.alarm) == (0, "")
    assert rig.registrations() == {SOURCE: KEY, THIRD: OTHER}
    assert rig.holder() == (_KIND, SOURCE)
    assert rig.work(SOURCE, Work.DISCARD, stray) == found, "the second time changes nothing"


def test_without_a_registration_or_a_stray_key_nothing_is_removed() -> None:
    rig, lun = rig_and_lun(3)
    rig.must(DESTINATION, out_command(_OUT.REGISTER, KEY, SPARE_BACK))
    stray = replace(lun, preempted_key=SPARE_BACK, alarm="1 registration remains")
    before = rig.registrations()
    assert rig.work(SOURCE, Work.DISCARD, lun) == lun
    assert rig.work(SOURCE, Work.DISCARD, replace(stray, tracked=UNREGISTERED)).alarm
    assert rig.registrations() == before
    rig.must(THIRD, out_command(_OUT.PREEMPT, OTHER, KEY, type=_KIND))
    assert rig.work(SOURCE, Work.DISCARD, stray) == stray, "the alarm stays"
    assert rig.registrations() == {DESTINATION: SPARE_BACK, THIRD: OTHER}
