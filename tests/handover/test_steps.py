"""The steps of a handover against the project's own logical unit: every role, every lost answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

import pytest

from holdover.guest.scsi_block import Tracked
from holdover.handover.steps import (
    LostAnswer,
    StepFailed,
    Steps,
    T,
    confirm,
    give,
    identify,
    preempt,
    register,
    settle,
    take_back_registration,
    withdraw,
)
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
KEY, OTHER, SPARE, SPARE_BACK = 0xA11CE, 0xB0B, 0x5EED, 0xBEEF
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


def forward(rig: Rig, case: Case) -> Iterator[None]:
    """The handover; yields after every step, so that a test can break off there."""
    tracked = rig.run(SOURCE, confirm(case.tracked))
    assert tracked == case.tracked
    yield
    found = rig.run(DESTINATION, register(tracked))
    assert found.shared == (case.third_key == KEY)
    yield
    prey = rig.run(SOURCE, give(tracked, shared=found.shared, spare_key=SPARE))
    yield
    rig.run(DESTINATION, preempt(tracked, prey))
    yield
    rig.run(SOURCE, settle())


def back(rig: Rig, case: Case) -> None:
    """Rolling back."""
    tracked = case.tracked
    found = rig.run(SOURCE, take_back_registration(tracked, SPARE))
    prey = 0
    if found.was_registered:
        rig.run(DESTINATION, withdraw(tracked))
    else:
        prey = rig.run(DESTINATION, give(tracked, shared=found.shared, spare_key=SPARE_BACK))
    rig.run(SOURCE, preempt(tracked, prey))
    rig.run(SOURCE, settle())


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
    for _ in forward(rig, case):
        pass
    check_at(rig, case, DESTINATION, SOURCE)
    assert rig.unit.execute(SOURCE, Command(UnitReady().encode())).good, "a unit attention was left behind"


@each_case
def test_after_any_step_it_can_be_rolled_back(case: Case) -> None:
    for last in range(4):
        rig = case.set_up()
        steps = forward(rig, case)
        for _ in range(last + 1):
            next(steps)
        back(rig, case)
        check_at(rig, case, SOURCE, DESTINATION)


@each_case
def test_any_one_answer_may_be_lost_before_or_after_the_command_was_carried_out(case: Case) -> None:
    rig = case.set_up()
    for _ in forward(rig, case):
        pass
    for number, carried_out in product(range(rig.sent), (False, True)):
        rig = case.set_up()
        rig.faults = {number: carried_out}
        for _ in forward(rig, case):
            pass
        check_at(rig, case, DESTINATION, SOURCE)


@each_case
def test_any_two_answers_may_be_lost_while_it_is_rolled_back_after_preempt(case: Case) -> None:
    def to_preempt() -> Rig:
        rig = case.set_up()
        steps = forward(rig, case)
        for _ in range(4):
            next(steps)
        rig.sent = 0
        return rig

    rig = to_preempt()
    back(rig, case)
    for first, second in product(range(rig.sent), repeat=2):
        for carried_out in (False, True):
            rig = to_preempt()
            rig.faults = {first: carried_out, second: not carried_out}
            back(rig, case)
            check_at(rig, case, SOURCE, DESTINATION)


@each_case
def test_every_step_may_run_twice(case: Case) -> None:
    rig = case.set_up()
    tracked = case.tracked
    for _ in range(2):
        assert rig.run(SOURCE, confirm(tracked)) == tracked
    for _ in range(2):
        found = rig.run(DESTINATION, register(tracked))
    prey = [rig.run(SOURCE, give(tracked, shared=found.shared, spare_key=SPARE)) for _ in range(2)]
    assert prey[0] == prey[1]
    for _ in range(2):
        rig.run(DESTINATION, preempt(tracked, prey[0]))
    check_at(rig, case, DESTINATION, SOURCE)


def test_a_registration_of_another_on_the_takers_nexus_is_left_alone() -> None:
    rig = CASES[-1].set_up()
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, 0, OTHER, aptpl=CASES[-1].aptpl))
    before = rig.registrations()
    with pytest.raises(StepFailed, match="another key, perhaps another guest's; nothing was changed"):
        rig.run(DESTINATION, register(CASES[-1].tracked))
    assert rig.registrations() == before


def holder_case() -> Case:
    return Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=OTHER, aptpl=False)


def test_confirm_finds_that_a_third_nexus_preempted_the_guest() -> None:
    rig = holder_case().set_up()
    rig.watch = lambda: None
    kind = ReservationType.EXCLUSIVE_ACCESS
    rig.must(THIRD, out_command(OutServiceAction.PREEMPT, OTHER, KEY, type=kind))
    assert rig.run(SOURCE, confirm(holder_case().tracked)) == Tracked()


def test_confirm_finds_that_the_reservation_was_released_unseen() -> None:
    rig = holder_case().set_up()
    rig.watch = lambda: None
    rig.must(SOURCE, out_command(OutServiceAction.RELEASE, KEY, type=ReservationType.WRITE_EXCLUSIVE))
    assert rig.run(SOURCE, confirm(holder_case().tracked)) == Tracked(KEY)


def test_confirm_finds_a_reservation_that_was_acquired_unseen() -> None:
    rig = Rig()
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY))
    rig.must(SOURCE, out_command(OutServiceAction.RESERVE, KEY, type=ReservationType.EXCLUSIVE_ACCESS))
    found = rig.run(SOURCE, confirm(Tracked(KEY)))
    assert found == Tracked(KEY, type=ReservationType.EXCLUSIVE_ACCESS)


@pytest.mark.parametrize("seen", [None, ReservationType.WRITE_EXCLUSIVE])
def test_confirm_of_a_stale_picture_does_not_say_whose_of_two_with_one_key_the_reservation_is(
    seen: ReservationType | None,
) -> None:
    case = Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=KEY, aptpl=False)
    with pytest.raises(StepFailed, match=r"some time ago, .* 2 nexuses: whose it is cannot be told"):
        case.set_up().run(SOURCE, confirm(Tracked(KEY, type=seen), stale=True))


def test_confirm_of_a_stale_picture_believes_the_lun_where_the_key_stands_once() -> None:
    case = holder_case()
    assert case.set_up().run(SOURCE, confirm(Tracked(KEY), stale=True)) == case.tracked


def test_confirm_refuses_a_registration_that_nobody_saw() -> None:
    rig = Rig()
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY))
    with pytest.raises(StepFailed, match="a key that the guest did not set here, where no registration"):
        rig.run(SOURCE, confirm(Tracked()))


def test_confirm_of_a_guest_without_registration_changes_nothing() -> None:
    rig = Rig()
    before = rig.unit.state
    assert rig.run(SOURCE, confirm(Tracked())) == Tracked()
    assert rig.unit.state == before


def test_preempt_says_what_is_wrong_when_the_reservation_did_not_move() -> None:
    rig = holder_case().set_up()
    tracked = holder_case().tracked
    rig.run(DESTINATION, register(tracked))
    with pytest.raises(StepFailed, match=f"PREEMPT: the giver's key {OTHER:#x} is still registered"):
        # the wrong prey, and a nexus that is not registered: the LUN refuses
        rig.run(INTRUDER, preempt(tracked, OTHER))


def test_a_lun_that_only_has_unit_attentions_to_say_is_given_up() -> None:
    endless = settle()
    attention = Rig().unit.execute(SOURCE, Command(UnitReady().encode()))
    assert is_unit_attention(attention)
    next(endless)

    def go_on() -> None:
        for _ in range(100):
            endless.send(attention)

    with pytest.raises(StepFailed, match="one unit attention after the other"):
        go_on()


def test_a_lun_whose_answers_are_all_lost_is_in_doubt() -> None:
    steps = register(Tracked(KEY))
    next(steps)

    def go_on() -> None:
        for _ in range(100):
            steps.throw(LostAnswer())

    with pytest.raises(StepFailed, match="in doubt"):
        go_on()


def test_identify_gives_the_naa_designator() -> None:
    assert str(Rig().run(SOURCE, identify())).startswith("naa.3")
