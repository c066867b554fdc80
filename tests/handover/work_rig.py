"""What the tests of a handover's work share: a logical unit, what must hold on it, and the cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.work import Work, steps_of
from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.logical_unit import LogicalUnit
from holdover.reservations.driver import run_sync
from holdover.reservations.steps import Steps, T
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.cdb import Write
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import describe_response, is_unit_attention
from holdover.scsi.status import Status
from tests.lun.support import LACKING, MemoryMedium, is_read_full_status


def nexus(name: str) -> ITNexus:
    return ITNexus(IscsiTransportID(f"iqn.2026-11.org.example:{name}", b"\x80\0\0\0\0\1"))


SOURCE, DESTINATION, THIRD, INTRUDER = map(nexus, ("source", "destination", "third", "intruder"))
KEY, OTHER, SPARE, SPARE_BACK, FRESH = 0xA11CE, 0xB0B, 0x5EED, 0xBEEF, 0xF2E54
WRITE = Command(Write(0, 1, 10).encode(), bytes(512))


@dataclass
class Rig:
    """A logical unit, and what must be true of it after every command of a handover."""

    unit: LogicalUnit = field(default_factory=lambda: LogicalUnit(MemoryMedium(), UnitIdentity("test")))
    faults: dict[int, bool] = field(default_factory=dict)
    """The number of a command -> whether it is carried out before its answer is lost."""
    sent: int = 0
    watch: Callable[[], None] = lambda: None
    full_status: bool = True
    """Whether the logical unit has READ FULL STATUS for the work."""

    def run(self, who: ITNexus, steps: Steps[T]) -> T:
        """Run one step as ``who``."""

        def carry_out(command: Command) -> Response:
            fault = self.faults.get(self.sent)
            self.sent += 1
            if not self.full_status and is_read_full_status(command):
                return LACKING
            answer = self.unit.execute(who, command) if fault is not False else None
            self.watch()
            if fault is None and answer is not None:
                return answer
            raise AnswerLost("memory", "lost")

        return run_sync(steps, carry_out)

    def work(
        self,
        who: ITNexus,
        work: Work,
        lun: LunHandover,
        *,
        stale: bool = False,
        candidates: tuple[int, ...] = (),
    ) -> LunHandover:
        """Do one work as ``who``."""
        return self.run(who, steps_of(work, lun, stale=stale, candidates=candidates))

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


def lun_of(tracked: Tracked) -> LunHandover:
    return LunHandover(
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


def forward(rig: Rig, case: Case, stages: int = len(FORWARD)) -> LunHandover:
    """The handover, or its first ``stages``."""
    lun = lun_of(case.tracked)
    for who, work in FORWARD[:stages]:
        lun = rig.work(who, work, lun)
        assert lun.tracked == case.tracked
        if work is Work.CONFIRM:
            assert lun.shared == (case.third_key == KEY)
    return lun


def back(rig: Rig, lun: LunHandover) -> LunHandover:
    """Rolling back."""
    for who, work in BACK:
        lun = rig.work(who, work, lun)
    return lun


def holder_case() -> Case:
    return Case(ReservationType.WRITE_EXCLUSIVE, guest_holds=True, third_key=OTHER, aptpl=False)


def check(rig: Rig, tracked: Tracked, *, stale: bool = False) -> Tracked:
    return rig.work(SOURCE, Work.CHECK, lun_of(tracked), stale=stale).tracked
