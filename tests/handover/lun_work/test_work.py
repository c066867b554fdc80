"""The work of a handover on the project's own logical unit: every role, every lost answer."""

from __future__ import annotations

import contextlib
from itertools import product

import pytest
from msgspec.structs import replace

from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.work import Work, steps_of
from holdover.reservations.steps import StepFailed
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import is_unit_attention
from holdover.scsi.status import Status
from tests.handover.work_rig import (
    DESTINATION,
    FORWARD,
    FRESH,
    KEY,
    OTHER,
    SOURCE,
    SPARE,
    SPARE_BACK,
    THIRD,
    WRITE,
    Case,
    Rig,
    back,
    forward,
    holder_case,
    lun_of,
)
from tests.rig.amounts import some

CASES = [
    Case(kind, guest_holds, third_key, aptpl)
    for kind, guest_holds, third_key, aptpl in product(
        (None, *ReservationType), (True, False), (0, OTHER, KEY), (True, False)
    )
    if (guest_holds or third_key) and not (kind is None and not guest_holds)
]


def describe(case: Case) -> str:
    kind = "none" if case.type is None else case.type.short_name
    third = {0: "alone", OTHER: "third", KEY: "shared"}[case.third_key]
    return f"{kind}-{'holder' if case.guest_holds else 'registrant'}-{third}{'-aptpl' if case.aptpl else ''}"


each_case = pytest.mark.parametrize("case", CASES, ids=describe)


def check_at(rig: Rig, case: Case, here: ITNexus, gone: ITNexus) -> None:
    """The guest has on ``here`` what it established, and nothing is left on ``gone``."""
    expected = {here: KEY} | ({THIRD: case.third_key} if case.third_key else {})
    assert rig.registrations() == expected
    assert rig.unit.state.aptpl == case.aptpl
    if case.type is None:
        assert rig.holder() is None
    elif case.type.all_registrants:
        assert rig.holder() == (case.type, None)
    else:
        assert rig.holder() == (case.type, here if case.guest_holds else THIRD)
    assert gone not in rig.registrations()
    expected_write = rig.tell(here, WRITE).status
    shut_out = case.type is not None and not case.guest_holds and not _registrants_write(case.type)
    assert expected_write is (Status.RESERVATION_CONFLICT if shut_out else Status.GOOD)


def _registrants_write(kind: ReservationType) -> bool:
    return kind.registrants_only or kind.all_registrants


@each_case
def test_the_guest_has_on_the_destination_what_it_had_and_the_source_has_nothing(case: Case) -> None:
    rig = case.set_up()
    lun = forward(rig, case)
    rig.work(SOURCE, Work.SETTLE, lun)
    assert rig.work(DESTINATION, Work.VERIFY, lun).alarm == ""
    check_at(rig, case, DESTINATION, SOURCE)
    assert rig.unit.execute(SOURCE, Command(UnitReady().encode())).good, "a unit attention was left behind"


@each_case
def test_after_any_stage_it_can_be_rolled_back(case: Case) -> None:
    for stages in range(len(FORWARD) + 1):
        rig = case.set_up()
        lun = back(rig, forward(rig, case, stages))
        assert lun.tracked == case.tracked
        check_at(rig, case, SOURCE, DESTINATION)


@each_case
def test_what_was_only_prepared_is_undone_while_the_guest_runs(case: Case) -> None:
    rig = case.set_up()
    rig.work(DESTINATION, Work.RETURN, forward(rig, case, 3))
    check_at(rig, case, SOURCE, DESTINATION)


@each_case
def test_any_one_answer_may_be_lost_before_or_after_the_command_was_carried_out(case: Case) -> None:
    rig = case.set_up()
    forward(rig, case)
    for number, carried_out in product(range(rig.sent), (False, True)):
        rig = case.set_up()
        rig.faults = {number: carried_out}
        forward(rig, case)
        check_at(rig, case, DESTINATION, SOURCE)


@pytest.mark.parametrize("case", some(CASES, 20), ids=describe)
def test_any_two_answers_may_be_lost_while_it_is_rolled_back_after_preempt(case: Case) -> None:
    def to_preempt() -> tuple[Rig, LunHandover]:
        rig = case.set_up()
        lun = forward(rig, case)
        rig.sent = 0
        return rig, lun

    rig, lun = to_preempt()
    back(rig, lun)
    for first, second in product(range(rig.sent), repeat=2):
        for carried_out in (False, True):
            rig, lun = to_preempt()
            rig.faults = {first: carried_out, second: not carried_out}
            back(rig, lun)
            check_at(rig, case, SOURCE, DESTINATION)


@each_case
def test_all_work_may_be_done_twice(case: Case) -> None:
    rig = case.set_up()
    lun = lun_of(case.tracked)
    for who, work in FORWARD:
        if work is not Work.GIVE or case.third_key != KEY:
            rig.work(who, work, lun)
        lun = rig.work(who, work, lun)
    check_at(rig, case, DESTINATION, SOURCE)


@each_case
def test_the_source_can_go_on_alone_unless_a_third_has_the_guests_key(case: Case) -> None:
    for stages in range(3, len(FORWARD) + 1):
        rig = case.set_up()
        lun = forward(rig, case, stages)
        if case.third_key == KEY:
            before = rig.unit.state.registrations
            with pytest.raises(StepFailed, match="is registered on a third nexus too"):
                rig.work(SOURCE, Work.ISOLATE, lun)
            assert rig.unit.state.registrations == before
            continue
        for work in (Work.ISOLATE, Work.EVICT):
            lun = rig.work(SOURCE, work, lun)
        assert lun.tracked == case.tracked
        check_at(rig, case, SOURCE, DESTINATION)


@each_case
def test_the_destination_can_take_everything_from_a_dead_source(case: Case) -> None:
    rig = case.set_up()
    lun = forward(rig, case, 3)
    if case.third_key == KEY:
        with pytest.raises(StepFailed, match="is registered on a third nexus too"):
            rig.work(DESTINATION, Work.CLAIM, lun)
        return
    for work in (Work.CLAIM, Work.TAKE):
        lun = rig.work(DESTINATION, work, lun)
    check_at(rig, case, DESTINATION, SOURCE)


@pytest.mark.parametrize("before", [None, *ReservationType])
@pytest.mark.parametrize("now", [None, *ReservationType])
def test_what_the_guest_changed_before_its_host_died_is_not_taken_for_what_was_prepared(
    before: ReservationType | None, now: ReservationType | None
) -> None:
    rig = Case(before, before is not None, OTHER, aptpl=False).set_up()
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, KEY))
    lun = forward(rig, Case(before, before is not None, OTHER, aptpl=False), 3)
    rig.watch = lambda: None
    if before is not None and before is not now:
        rig.must(SOURCE, out_command(OutServiceAction.RELEASE, KEY, type=before))
    if now is not None and before is not now:
        rig.must(SOURCE, out_command(OutServiceAction.RESERVE, KEY, type=now))
    state = rig.unit.state
    if before is now:
        assert rig.work(DESTINATION, Work.CLAIM, lun).tracked == lun.tracked
        return
    with pytest.raises(StepFailed, match="not the one that was prepared"):
        rig.work(DESTINATION, Work.CLAIM, lun)
    assert (rig.unit.state.registrations, rig.unit.state.reservation) == (
        state.registrations,
        state.reservation,
    )


def test_a_key_that_was_shared_before_the_guest_changed_it_is_taken_from_the_source_all_the_same() -> None:
    kind = ReservationType.WRITE_EXCLUSIVE
    case = Case(kind, guest_holds=True, third_key=OTHER, aptpl=False)
    rig = case.set_up()
    lun = replace(forward(rig, case, 3), shared=True)
    for work in (Work.CLAIM, Work.TAKE):
        lun = rig.work(DESTINATION, work, lun)
    check_at(rig, case, DESTINATION, SOURCE)


def taking() -> tuple[Rig, Case, LunHandover]:
    """A holder of which the destination has begun to take everything."""
    case = Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=OTHER, aptpl=False)
    rig = case.set_up()
    return rig, case, rig.work(DESTINATION, Work.CLAIM, forward(rig, case, 3))


def test_a_destination_that_takes_does_not_know_by_itself_who_has_removed_its_registration() -> None:
    rig, _, lun = taking()
    rig.watch = lambda: None
    rig.must(THIRD, out_command(OutServiceAction.PREEMPT, OTHER, KEY, type=ReservationType.WRITE_EXCLUSIVE))
    before = rig.registrations()
    with pytest.raises(StepFailed, match="this host's registration is gone: another node has fenced"):
        rig.work(DESTINATION, Work.TAKE, lun)
    assert rig.registrations() == before
    assert rig.work(DESTINATION, Work.TAKE, replace(lun, conceded=True)).tracked == UNREGISTERED
    assert rig.registrations() == before


def test_a_key_that_is_new_when_the_source_comes_back_does_not_pass_for_a_third_nodes() -> None:
    """The destination took everything while the source was down; the guest changed its key there."""
    rig, _, lun = taking()
    rig.watch = lambda: None
    kind, new_key = ReservationType.WRITE_EXCLUSIVE, 0xB
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, KEY, SPARE_BACK))
    rig.must(DESTINATION, out_command(OutServiceAction.PREEMPT, SPARE_BACK, KEY, type=kind))
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, SPARE_BACK, new_key))
    found = rig.work(SOURCE, Work.CONFIRM, lun)
    assert found.tracked == UNREGISTERED
    assert found.others == (OTHER,)
    with pytest.raises(StepFailed, match="key 0xb is registered, and the guest is not registered here"):
        rig.work(SOURCE, Work.WEIGH, found)
    assert rig.registrations() == {DESTINATION: new_key, THIRD: OTHER}


@pytest.mark.parametrize("registers", [False, True])
def test_a_guest_that_is_fenced_while_the_source_goes_on_alone_leaves_no_spare_key(registers: bool) -> None:
    """The destination died while it took, with the reservation on its spare key."""
    rig, _, lun = taking()
    rig.watch = lambda: None
    kind = ReservationType.WRITE_EXCLUSIVE
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, KEY, SPARE_BACK))
    rig.must(DESTINATION, out_command(OutServiceAction.PREEMPT, SPARE_BACK, KEY, type=kind))
    assert rig.holder() == (kind, DESTINATION)
    fence = out_command(OutServiceAction.PREEMPT, OTHER, KEY, type=kind)
    if registers:
        rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY))
        pending = [fence]  # after the source's first command, which finds its registration
        rig.watch = lambda: rig.must(THIRD, pending.pop()) if pending else None
    assert rig.work(SOURCE, Work.EVICT, lun).tracked == UNREGISTERED
    assert rig.registrations() == {THIRD: OTHER}
    assert rig.holder() is None


@pytest.mark.parametrize("works", [(Work.ISOLATE,), (Work.ISOLATE, Work.EVICT)])
def test_what_a_source_has_begun_alone_and_then_conceded_is_taken(works: tuple[Work, ...]) -> None:
    rig, case, lun = taking()
    theirs = lun
    for work in works:
        theirs = rig.work(SOURCE, work, theirs)
    if Work.EVICT in works:
        with pytest.raises(StepFailed, match="registration is gone"):
            rig.work(DESTINATION, Work.TAKE, lun)
    lun = rig.work(DESTINATION, Work.TAKE, replace(lun, conceded=True))
    check_at(rig, case, DESTINATION, SOURCE)


def test_a_source_does_not_act_alone_where_the_destination_has_begun_to_take() -> None:
    rig, case, lun = taking()
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, KEY, lun.destination_spare))
    rig.must(DESTINATION, out_command(OutServiceAction.PREEMPT, lun.destination_spare, KEY, type=case.type))
    with pytest.raises(StepFailed, match="has begun to take"):
        rig.work(SOURCE, Work.WEIGH, replace(lun, tracked=UNREGISTERED))


def test_what_a_guest_has_unregistered_meanwhile_does_not_stay_on_the_destination() -> None:
    case = Case(ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, True, 0, aptpl=False)
    rig = case.set_up()
    lun = forward(rig, case, 3)
    rig.watch = lambda: None
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, 0))
    with pytest.raises(StepFailed, match="only this host's nexus has key"):
        rig.work(DESTINATION, Work.RETURN, lun)
    rig.work(DESTINATION, Work.RETURN, replace(lun, tracked=UNREGISTERED))
    assert rig.registrations() == {}
    assert rig.holder() is None


@each_case
def test_a_source_that_comes_back_removes_what_was_taken_from_it_and_nothing_else(case: Case) -> None:
    rig = case.set_up()
    lun = before = forward(rig, case, 3)
    if case.third_key != KEY:
        for work in (Work.CLAIM, Work.TAKE):
            lun = rig.work(DESTINATION, work, lun)
    else:
        lun = before = forward(rig, case, len(FORWARD))
    rig.work(SOURCE, Work.YIELD, before)
    check_at(rig, case, DESTINATION, SOURCE)
    assert rig.unit.execute(SOURCE, Command(UnitReady().encode())).good, "a unit attention was left behind"


@pytest.mark.parametrize("left", [KEY, SPARE, FRESH])
@pytest.mark.parametrize("aptpl", [True, False])
def test_what_a_source_had_registered_again_before_it_died_is_removed(left: int, aptpl: bool) -> None:
    rig = Rig()
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, 0, OTHER, aptpl=True))
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, left, aptpl=aptpl))
    kind = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    rig.must(SOURCE, out_command(OutServiceAction.RESERVE, left, type=kind))
    # since this side last looked
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, 0, 7, aptpl=not aptpl))
    rig.work(SOURCE, Work.YIELD, lun_of(Tracked(KEY, aptpl, kind)))
    assert rig.registrations() == {THIRD: OTHER, DESTINATION: 7}
    assert rig.holder() is None
    assert rig.unit.state.aptpl is not aptpl


@pytest.mark.parametrize("kind", ReservationType)
def test_two_hosts_that_are_one_nexus_take_nothing_from_each_other(kind: ReservationType) -> None:
    rig = Case(kind, guest_holds=True, third_key=0, aptpl=False).set_up()
    lun = rig.work(SOURCE, Work.CHECK, lun_of(Tracked(KEY, type=kind)))
    lun = rig.work(SOURCE, Work.REGISTER, lun)
    # the source has died before it could confirm, which would have shown it
    with pytest.raises(StepFailed, match="one and the same nexus"):
        rig.work(SOURCE, Work.CLAIM, lun)


def test_a_registration_of_another_on_the_destinations_nexus_is_left_alone() -> None:
    rig = CASES[-1].set_up()
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, 0, OTHER, aptpl=CASES[-1].aptpl))
    before = rig.registrations()
    with pytest.raises(StepFailed, match="a key that is not the guest's"):
        rig.work(DESTINATION, Work.REGISTER, lun_of(CASES[-1].tracked))
    assert rig.registrations() == before
    rig.work(DESTINATION, Work.RETURN, lun_of(CASES[-1].tracked))
    assert rig.registrations() == before, "there is nothing of the guest's to be removed"


def test_hosts_that_are_one_nexus_are_found_out_and_nothing_is_unregistered() -> None:
    rig = holder_case().set_up()
    lun = rig.work(SOURCE, Work.CHECK, lun_of(holder_case().tracked))
    lun = rig.work(SOURCE, Work.REGISTER, lun)
    with pytest.raises(StepFailed, match="or both hosts are one I_T nexus"):
        rig.work(SOURCE, Work.CONFIRM, lun)
    with pytest.raises(StepFailed, match="if both hosts are one nexus"):
        rig.work(SOURCE, Work.RETURN, lun)
    assert rig.registrations()[SOURCE] == KEY


def test_a_destination_whose_registration_was_removed_is_found_out_before_the_commit() -> None:
    case = Case(None, guest_holds=True, third_key=0, aptpl=False)
    rig = case.set_up()
    lun = forward(rig, case, 2)
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, KEY, 0))
    with pytest.raises(StepFailed, match="another node has removed the destination's registration"):
        rig.work(SOURCE, Work.CONFIRM, lun)


def test_a_third_that_registers_the_guests_key_after_the_commit_is_not_hurt_by_rolling_back() -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=0, aptpl=False)
    rig = case.set_up()
    lun = forward(rig, case)
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, 0, KEY))
    rig.watch = case.watch(rig)
    back(rig, lun)
    assert rig.registrations() == {SOURCE: KEY, THIRD: KEY}
    assert rig.holder() == (case.type, SOURCE)


def test_the_aptpl_of_a_third_is_not_turned_off() -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=0, aptpl=False)
    for stages in (0, 3, len(FORWARD)):
        rig = case.set_up()
        rig.watch = lambda: None
        rig.must(THIRD, out_command(OutServiceAction.REGISTER, 0, OTHER, aptpl=True))
        lun = forward(rig, case, stages)
        assert rig.unit.state.aptpl
        if stages:
            back(rig, lun)
        assert rig.unit.state.aptpl


LATE = {
    Work.WONDER: (SOURCE, 3),
    Work.RECOUNT: (SOURCE, 3),
    Work.DISCARD: (SOURCE, 3),
    Work.REASSURE: (DESTINATION, len(FORWARD)),
    Work.ASK: (SOURCE, len(FORWARD)),
    Work.RECOLLECT: (DESTINATION, len(FORWARD)),
    Work.CLAIM: (DESTINATION, 3),
    Work.TAKE: (DESTINATION, 3),
    Work.ASSURE: (DESTINATION, len(FORWARD)),
    Work.WITHDRAW: (DESTINATION, 3),
    Work.YIELD: (SOURCE, 3),
    Work.ISOLATE: (SOURCE, 3),
    Work.PROBE: (DESTINATION, 3),
    Work.RETURN: (DESTINATION, 3),
    Work.VERIFY: (DESTINATION, len(FORWARD)),
}
"""Work that may begin long after the last look at the LUN: who does it, and after how many stages."""


@pytest.mark.parametrize("work", LATE)
def test_what_begins_late_does_not_turn_off_an_aptpl_of_meanwhile(work: Work) -> None:
    who, stages = LATE[work]
    case = Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=OTHER, aptpl=False)
    rig = case.set_up()
    lun = forward(rig, case, stages)
    rig.watch = lambda: None
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, OTHER, OTHER, aptpl=True))
    with contextlib.suppress(StepFailed):
        rig.work(who, work, lun)
    assert rig.unit.state.aptpl


@pytest.mark.parametrize("was_carried_out", [True, False])
def test_a_source_that_wonders_finds_the_key_that_its_guest_was_registering(was_carried_out: bool) -> None:
    case = holder_case()
    rig = case.set_up()
    lun = forward(rig, case, 3)
    rig.watch = lambda: None
    if was_carried_out:
        rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, OTHER, aptpl=case.aptpl))
    found = rig.work(SOURCE, Work.WONDER, lun, candidates=(KEY, OTHER))
    key = OTHER if was_carried_out else KEY
    assert found == replace(lun, tracked=replace(case.tracked, key=key), lost=False)
    # The guest is back on the source with that key, whichever way the handover then goes.
    found = rig.work(SOURCE, Work.RECLAIM, found)
    assert rig.registrations()[SOURCE] == key
    assert rig.holder() == (case.type, SOURCE)


def test_a_roll_back_finds_the_key_that_the_guest_was_registering() -> None:
    case = holder_case()
    rig = case.set_up()
    lun = forward(rig, case, 3)
    rig.watch = lambda: None
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, OTHER, aptpl=case.aptpl))
    found = rig.work(SOURCE, Work.ASK, lun, candidates=(KEY, OTHER))
    assert found == replace(lun, tracked=replace(case.tracked, key=OTHER), lost=False)
    for who, work in ((SOURCE, Work.RECLAIM), (DESTINATION, Work.RETURN), (SOURCE, Work.TAKE_BACK)):
        found = rig.work(who, work, found)
    assert (rig.registrations().get(DESTINATION), rig.registrations()[SOURCE]) == (None, OTHER)
    assert rig.holder() == (case.type, SOURCE)


@pytest.mark.parametrize("third_key", [0, KEY], ids=["own key", "shared key"])
def test_a_source_that_wonders_has_lost_its_registration_once_the_destination_has_preempted(
    third_key: int,
) -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=third_key, aptpl=True)
    for stages in range(3, len(FORWARD) + 1):
        rig = case.set_up()
        lun = forward(rig, case, stages)
        found = rig.work(SOURCE, Work.WONDER, lun, candidates=(KEY, OTHER))
        # If another node has the guest's key, the source has a key of the handover then, and not the guest.
        assert found.tracked == case.tracked
        assert found.lost == (stages == len(FORWARD))
        assert rig.registrations().get(SOURCE) == (
            None if found.lost else lun.source_spare if third_key and stages > 3 else KEY
        )


def test_to_hear_leaves_the_handovers_own_preempt_alone() -> None:
    case = holder_case()
    rig = case.set_up()
    lun = forward(rig, case)
    assert rig.work(SOURCE, Work.COLLECT, lun) == lun
    assert is_unit_attention(rig.unit.execute(SOURCE, Command(UnitReady().encode())))


def test_a_difference_to_before_is_an_alarm() -> None:
    case = holder_case()
    rig = case.set_up()
    lun = forward(rig, case)
    rig.watch = lambda: None
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, OTHER, 0))
    assert "were 0xb0b and are none" in rig.work(DESTINATION, Work.VERIFY, lun).alarm


def test_a_device_without_migrate_pr_is_left_alone() -> None:
    for work in Work:
        steps = steps_of(work, LunHandover("naa.1", migrate_pr=False, tracked=Tracked(KEY)))
        with pytest.raises(StopIteration):
            next(steps)
