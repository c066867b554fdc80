"""What the source finds when it checks what it tracks with the LUN, and a guest that was fenced."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from holdover.handover.lun_handover import UNREGISTERED, Registrations
from holdover.handover.lun_work.work import Work, steps_of
from holdover.reservations.driver import run_sync
from holdover.reservations.steps import StepFailed
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import AdditionalSense
from tests.handover.work_rig import (
    BACK,
    DESTINATION,
    FRESH,
    KEY,
    OTHER,
    SOURCE,
    THIRD,
    Case,
    Rig,
    back,
    check,
    forward,
    holder_case,
)


def test_a_third_nexus_that_preempted_the_guest_is_found() -> None:
    rig = holder_case().set_up()
    rig.watch = lambda: None
    kind = ReservationType.EXCLUSIVE_ACCESS
    rig.must(THIRD, out_command(OutServiceAction.PREEMPT, OTHER, KEY, type=kind))
    assert check(rig, holder_case().tracked) == UNREGISTERED


def test_a_guest_that_was_preempted_amid_the_commit_is_not_registered_again() -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, True, OTHER, False)
    for stages in (3, 4, 5):
        rig = case.set_up()
        rig.watch = lambda: None
        lun = forward(rig, case, stages)
        rig.must(THIRD, out_command(OutServiceAction.PREEMPT, OTHER, KEY, type=case.type))
        assert back(rig, lun).tracked == UNREGISTERED
        assert rig.registrations() == {THIRD: OTHER}
        assert rig.holder() == (case.type, THIRD)


@pytest.mark.parametrize("left", [0, FRESH])
@pytest.mark.parametrize("act", [OutServiceAction.PREEMPT, OutServiceAction.CLEAR])
def test_the_key_of_a_guest_that_was_fenced_amid_a_roll_back_does_not_come_back_for_a_moment(
    act: OutServiceAction, left: int
) -> None:
    """multipathd on the destination would register a path that comes back at that moment. ``left``: what a
    source that died amid this has registered.
    """
    case = Case(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, True, OTHER, False)
    rig = case.set_up()
    lun = forward(rig, case)
    for who, work in BACK[:2]:
        lun = rig.work(who, work, lun)
    assert lun.lost
    rig.must(THIRD, out_command(act, OTHER, KEY, type=case.type if act is OutServiceAction.PREEMPT else None))
    seen: list[int] = []
    rig.watch = lambda: seen.extend(rig.registrations().values())
    if left:
        rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, left))
    assert rig.work(SOURCE, Work.RECLAIM, lun).tracked == UNREGISTERED
    assert KEY not in seen
    assert SOURCE not in rig.registrations()


@pytest.mark.parametrize("stages", [3, 4])
@pytest.mark.parametrize("paths", [1, 2])
@pytest.mark.parametrize("act", [OutServiceAction.PREEMPT, OutServiceAction.CLEAR])
@pytest.mark.parametrize("holds", [True, False])
def test_a_guest_that_was_fenced_before_the_commit_arrives_so(
    holds: bool, act: OutServiceAction, paths: int, stages: int
) -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, holds, OTHER, False)
    rig = case.set_up()
    rig.watch = lambda: None
    lun = replace(forward(rig, case, 3), source=Registrations(several=paths > 1))
    if stages == 4:
        lun = rig.work(SOURCE, Work.GIVE, lun)
    rekeyed = lun.preempted_key == lun.source_spare
    if stages == 4 and rekeyed and act is OutServiceAction.PREEMPT:
        return  # the guest's key is on the destination alone then
    rig.must(THIRD, out_command(act, OTHER, KEY, type=case.type if act is OutServiceAction.PREEMPT else None))
    if stages == 3:
        lun = rig.work(SOURCE, Work.GIVE, lun)
    arrived = rig.work(DESTINATION, Work.PREEMPT, lun)
    assert (arrived.tracked, arrived.preempted_key) == (UNREGISTERED, 0)
    # a source that has unregistered itself was told nothing
    given = stages == 4 and not holds
    assert arrived.pending_attentions == ((int(AdditionalSense.REGISTRATIONS_PREEMPTED),) if given else ())
    assert KEY not in rig.registrations().values()
    assert rig.work(SOURCE, Work.COLLECT, arrived) == arrived
    assert rig.unit.execute(SOURCE, Command(UnitReady().encode())).good, "it was met"


@pytest.mark.parametrize("holds", [True, False])
def test_a_destination_that_alone_has_lost_its_registration_is_no_sign_of_a_fence(holds: bool) -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, holds, OTHER, False)
    rig = case.set_up()
    rig.watch = lambda: None
    lun = forward(rig, case, 3)
    lun = rig.work(SOURCE, Work.GIVE, lun) if holds else lun
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, KEY, 0))
    with pytest.raises(StepFailed, match="another node has removed the guest's registration"):
        rig.work(DESTINATION, Work.PREEMPT, lun)


@pytest.mark.parametrize("number", range(8))
def test_a_guest_that_is_fenced_between_two_questions_is_found_fenced(number: int) -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, True, OTHER, False)
    rig = case.set_up()
    lun = forward(rig, case, 2)
    sent = 0

    def carry_out(command: Command) -> Response:
        nonlocal sent
        if sent == number:
            rig.must(THIRD, out_command(OutServiceAction.PREEMPT, OTHER, KEY, type=case.type))
        sent += 1
        return rig.unit.execute(SOURCE, command)

    found = run_sync(steps_of(Work.CONFIRM, lun), carry_out)
    assert found.tracked in (UNREGISTERED, case.tracked, Tracked(KEY))
    if number < 3:
        assert found.tracked == UNREGISTERED


def test_a_reservation_that_was_released_unseen_is_found() -> None:
    rig = holder_case().set_up()
    rig.watch = lambda: None
    rig.must(SOURCE, out_command(OutServiceAction.RELEASE, KEY, type=ReservationType.WRITE_EXCLUSIVE))
    assert check(rig, holder_case().tracked) == Tracked(KEY)


def test_a_reservation_that_was_acquired_unseen_is_found() -> None:
    rig = Rig()
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY))
    rig.must(SOURCE, out_command(OutServiceAction.RESERVE, KEY, type=ReservationType.EXCLUSIVE_ACCESS))
    assert check(rig, Tracked(KEY)) == Tracked(KEY, type=ReservationType.EXCLUSIVE_ACCESS)


@pytest.mark.parametrize("seen", [None, ReservationType.WRITE_EXCLUSIVE])
def test_a_stale_picture_does_not_say_whose_of_two_with_one_key_the_reservation_is(
    seen: ReservationType | None,
) -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=KEY, aptpl=False)
    with pytest.raises(
        StepFailed, match=r"some time ago; .* 2 nexuses have\. It is not known whether it is the guest's"
    ):
        check(case.set_up(), Tracked(KEY, type=seen), stale=True)


def test_of_a_stale_picture_the_lun_is_believed_where_the_key_stands_once() -> None:
    case = holder_case()
    assert check(case.set_up(), Tracked(KEY), stale=True) == case.tracked


def test_a_registration_that_nobody_saw_is_refused() -> None:
    rig = Rig()
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY))
    with pytest.raises(StepFailed, match="a key that is not the guest's"):
        check(rig, UNREGISTERED)


def test_to_check_a_guest_without_registration_changes_nothing() -> None:
    rig = Rig()
    before = rig.unit.state
    assert check(rig, UNREGISTERED) == UNREGISTERED
    assert rig.unit.state == before


@pytest.mark.parametrize("kind", [None, *ReservationType])
@pytest.mark.parametrize("third", [0, OTHER])
def test_the_new_key_after_a_lost_answer_is_found(kind: ReservationType | None, third: int) -> None:
    """The destination has the former key, and is told the new one."""
    case = Case(kind, guest_holds=True, third_key=third, aptpl=True)
    rig = case.set_up()
    lun = forward(rig, case, 3)
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, 0xC0DE, aptpl=True))
    found = rig.work(SOURCE, Work.CONFIRM, lun, stale=True, candidates=(0xC0DE,))
    assert found.tracked == replace(case.tracked, key=0xC0DE)
    assert (found.others, found.shared) == (((third,) if third else ()), False)
    rig.work(DESTINATION, Work.REGISTER, replace(found, standing=(KEY,)))
    again = rig.work(SOURCE, Work.CONFIRM, found, stale=True)
    assert again.tracked == found.tracked
    assert rig.registrations()[DESTINATION] == 0xC0DE
