"""The work of a handover on the project's own logical unit: every role, every lost answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product

import pytest

from holdover.guest.scsi_block import Tracked
from holdover.handover.moving import UNREGISTERED, MovingLun
from holdover.handover.steps import LostAnswer, StepFailed, Steps, T
from holdover.handover.work import Work, steps_of
from holdover.lun.inquiry import Identity
from holdover.lun.logical_unit import LogicalUnit
from holdover.scsi.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdb import Write
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation_out import out_command
from holdover.scsi.sense import describe_response, is_unit_attention
from holdover.scsi.status import Status
from holdover.scsi.transport_id import IscsiTransportID
from tests.lun.support import MemoryMedium


def nexus(name: str) -> ITNexus:
    return ITNexus(IscsiTransportID(f"iqn.2026-11.org.example:{name}", b"\x80\0\0\0\0\1"))


SOURCE, DESTINATION, THIRD, INTRUDER = map(nexus, ("source", "destination", "third", "intruder"))
KEY, OTHER, SPARE, SPARE_BACK, FRESH = 0xA11CE, 0xB0B, 0x5EED, 0xBEEF, 0xF2E54
WRITE = Command(Write(0, 1, 10).encode(), bytes(512))


@dataclass
class Rig:
    """A logical unit, and what must be true of it after every command of a handover."""

    unit: LogicalUnit = field(default_factory=lambda: LogicalUnit(MemoryMedium(), Identity("test")))
    faults: dict[int, bool] = field(default_factory=dict)
    """The number of a command -> whether it is carried out before its answer is lost."""
    sent: int = 0
    watch: Callable[[], None] = lambda: None

    def run(self, who: ITNexus, steps: Steps[T]) -> T:
        """Run one step as ``who``."""
        try:
            command = next(steps)
            while True:
                fault = self.faults.get(self.sent)
                self.sent += 1
                answer = self.unit.execute(who, command) if fault is not False else None
                self.watch()
                if fault is None and answer is not None:
                    command = steps.send(answer)
                else:
                    command = steps.throw(LostAnswer())
        except StopIteration as done:
            result: T = done.value
            return result

    def work(self, who: ITNexus, work: Work, lun: MovingLun, *, stale: bool = False) -> MovingLun:
        """Do one work as ``who``."""
        return self.run(who, steps_of(work, lun, stale=stale))

    def tell(self, who: ITNexus, command: Command) -> Response:
        """One command, past unit attentions."""
        answer = self.unit.execute(who, command)
        while is_unit_attention(answer):
            answer = self.unit.execute(who, command)
        return answer

    def must(self, who: ITNexus, command: Command) -> None:
        answer = self.tell(who, command)
        assert answer.good, describe_response(answer)

    def registrations(self) -> dict[ITNexus, int]:
        return {each.nexus: each.key for each in self.unit.state.registrations}

    def holder(self) -> tuple[ReservationType, ITNexus | None] | None:
        held = self.unit.state.reservation
        return None if held is None else (held.type, held.holder)


@dataclass(frozen=True)
class Case:
    """Who holds what before the handover."""

    type: ReservationType | None
    guest_holds: bool
    third_key: int
    aptpl: bool

    @property
    def tracked(self) -> Tracked:
        holds = self.guest_holds or (self.type is not None and self.type.all_registrants)
        return Tracked(KEY, self.aptpl, self.type if holds else None)

    def set_up(self) -> Rig:
        rig = Rig()
        for who in (SOURCE, DESTINATION, THIRD, INTRUDER):
            rig.tell(who, Command(UnitReady().encode()))
        if self.third_key:
            rig.must(THIRD, out_command(OutServiceAction.REGISTER, 0, self.third_key, aptpl=self.aptpl))
        rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY, aptpl=self.aptpl))
        if self.type is not None:
            holder, key = (SOURCE, KEY) if self.guest_holds else (THIRD, self.third_key)
            rig.must(holder, out_command(OutServiceAction.RESERVE, key, type=self.type))
        rig.watch = self.watch(rig)
        return rig

    def watch(self, rig: Rig) -> Callable[[], None]:
        third = rig.registrations().get(THIRD)
        had = rig.holder()

        def check() -> None:
            assert rig.registrations().get(THIRD) == third, "a third nexus's registration was changed"
            assert rig.unit.state.aptpl == self.aptpl
            if had is None:
                return
            assert rig.holder() is not None, "the reservation was free"
            if had[1] == THIRD:
                assert rig.holder() == had, "a third nexus's reservation was changed"
            assert rig.tell(INTRUDER, WRITE).status is Status.RESERVATION_CONFLICT

        return check


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


def lun_of(tracked: Tracked) -> MovingLun:
    return MovingLun(
        "naa.1", tracked=tracked, source_spare=SPARE, destination_spare=SPARE_BACK, fresh_spare=FRESH
    )


FORWARD = (
    (SOURCE, Work.CHECK),
    (DESTINATION, Work.REGISTER),
    (SOURCE, Work.CONFIRM),
    (SOURCE, Work.GIVE),
    (DESTINATION, Work.PREEMPT),
)
BACK = (
    (DESTINATION, Work.PROBE),
    (SOURCE, Work.ASK),
    (SOURCE, Work.RECLAIM),
    (DESTINATION, Work.RETURN),
    (SOURCE, Work.TAKE_BACK),
)


def forward(rig: Rig, case: Case, stages: int = len(FORWARD)) -> MovingLun:
    """The handover, or its first ``stages``."""
    lun = lun_of(case.tracked)
    for who, work in FORWARD[:stages]:
        lun = rig.work(who, work, lun)
        assert lun.tracked == case.tracked
        if work is Work.CONFIRM:
            assert lun.shared == (case.third_key == KEY)
    return lun


def back(rig: Rig, lun: MovingLun) -> MovingLun:
    """Rolling back."""
    for who, work in BACK:
        lun = rig.work(who, work, lun)
    return lun


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


@each_case
def test_any_two_answers_may_be_lost_while_it_is_rolled_back_after_preempt(case: Case) -> None:
    def to_preempt() -> tuple[Rig, MovingLun]:
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
            with pytest.raises(StepFailed, match="stands on a third nexus too"):
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
        with pytest.raises(StepFailed, match="stands on a third nexus too"):
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


def test_what_a_guest_has_unregistered_meanwhile_does_not_stay_on_the_destination() -> None:
    case = Case(ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, True, 0, aptpl=False)
    rig = case.set_up()
    lun = forward(rig, case, 3)
    rig.watch = lambda: None
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, 0))
    with pytest.raises(StepFailed, match="stands on this host's nexus alone"):
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


@pytest.mark.parametrize("aptpl", [True, False])
def test_what_a_destination_withdraws_leaves_aptpl_as_it_is_now(aptpl: bool) -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=OTHER, aptpl=aptpl)
    rig = case.set_up()
    lun = forward(rig, case, 3)
    rig.watch = lambda: None
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, FRESH, aptpl=not aptpl))
    rig.work(DESTINATION, Work.WITHDRAW, lun)
    assert rig.registrations() == {SOURCE: FRESH, THIRD: OTHER}
    assert rig.unit.state.aptpl is not aptpl


@pytest.mark.parametrize("kind", ReservationType)
def test_two_hosts_that_are_one_nexus_take_nothing_from_each_other(kind: ReservationType) -> None:
    rig = Case(kind, guest_holds=True, third_key=0, aptpl=False).set_up()
    lun = rig.work(SOURCE, Work.CHECK, lun_of(Tracked(KEY, type=kind)))
    lun = rig.work(SOURCE, Work.REGISTER, lun)
    # the source has died before it could confirm, which would have shown it
    with pytest.raises(StepFailed, match="one and the same nexus"):
        rig.work(SOURCE, Work.CLAIM, lun)


def holder_case() -> Case:
    return Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=OTHER, aptpl=False)


def check(rig: Rig, tracked: Tracked, *, stale: bool = False) -> Tracked:
    return rig.work(SOURCE, Work.CHECK, lun_of(tracked), stale=stale).tracked


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
    with pytest.raises(StepFailed, match="both hosts are one and the same nexus"):
        rig.work(SOURCE, Work.CONFIRM, lun)
    with pytest.raises(StepFailed, match="if both hosts are one nexus"):
        rig.work(SOURCE, Work.RETURN, lun)
    assert rig.registrations()[SOURCE] == KEY


def test_a_destination_whose_registration_was_removed_is_found_out_before_the_commit() -> None:
    case = Case(None, guest_holds=True, third_key=0, aptpl=False)
    rig = case.set_up()
    lun = forward(rig, case, 2)
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, KEY, 0))
    with pytest.raises(StepFailed, match="the destination's registration was removed"):
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
        if stages == 4:
            with pytest.raises(StepFailed, match="RESERVATION CONFLICT"):
                rig.work(DESTINATION, Work.PREEMPT, lun)
        assert back(rig, lun).tracked == UNREGISTERED
        assert rig.registrations() == {THIRD: OTHER}
        assert rig.holder() == (case.type, THIRD)


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
    with pytest.raises(StepFailed, match=r"some time ago, .* 2 nexuses: whose it is cannot be told"):
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


def test_a_difference_to_before_is_an_alarm() -> None:
    case = holder_case()
    rig = case.set_up()
    lun = forward(rig, case)
    rig.watch = lambda: None
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, OTHER, 0))
    assert "were 0xb0b and are none" in rig.work(DESTINATION, Work.VERIFY, lun).alarm


def test_a_device_without_migrate_pr_is_left_alone() -> None:
    for work in Work:
        steps = steps_of(work, MovingLun("naa.1", migrate_pr=False, tracked=Tracked(KEY)))
        with pytest.raises(StopIteration):
            next(steps)
