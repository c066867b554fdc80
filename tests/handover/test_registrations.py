"""Handovers of hosts that have the LUN by several paths, some of them away: registrations are what counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from holdover.handover.lun_handover import LunHandover, Registrations
from holdover.handover.lun_work.source import confirm
from holdover.handover.lun_work.work import Work, steps_of
from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.logical_unit import LogicalUnit
from holdover.reservations.driver import run_sync
from holdover.reservations.steps import StepFailed
from holdover.reservations.tracked import Tracked
from holdover.runbook import explain
from holdover.scsi.cdbs.cdb import PersistentReserveIn, Write, decode_cdb
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import (
    AdditionalSense,
    SenseKey,
    check_condition,
    describe_response,
    is_unit_attention,
)
from holdover.scsi.status import Status
from tests.handover.multipath import Paths, carry_out, fail, paths_of, restore
from tests.lun.support import MemoryMedium

KEY, OTHER, SPARE, SPARE_BACK, FRESH = 0xABC, 0x77, 0x5EED, 0xBEEF, 0xF2E54
TYPE = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
WRITE = Command(Write(0, 1, 10).encode(), bytes(512))

PREPARE = (("a", Work.CHECK), ("b", Work.REGISTER), ("a", Work.CONFIRM))
COMMIT = (("a", Work.GIVE), ("b", Work.PREEMPT))
BACK = (
    ("b", Work.PROBE),
    ("a", Work.ASK),
    ("a", Work.RECLAIM),
    ("b", Work.RETURN),
    ("a", Work.TAKE_BACK),
)


@dataclass
class Rig:
    """A LUN, host a and host b, and a third node c."""

    hosts: dict[str, Paths]
    full_status: bool = True
    unit: LogicalUnit = field(default_factory=lambda: LogicalUnit(MemoryMedium(), UnitIdentity("test")))

    def __post_init__(self) -> None:
        self.hosts.setdefault("c", paths_of("c", (1,)))
        for paths in self.hosts.values():
            for nexus in paths.nexuses:
                while not self.unit.execute(nexus, Command(UnitReady().encode())).good:
                    pass

    def execute(self, nexus: ITNexus, command: Command) -> Response:
        """As the LUN does; one without READ FULL STATUS refuses that."""
        if not self.full_status and command.opcode == 0x5E:
            cdb = decode_cdb(command.cdb)
            if (
                isinstance(cdb, PersistentReserveIn)
                and cdb.service_action == InServiceAction.READ_FULL_STATUS
            ):
                return check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
        return self.unit.execute(nexus, command)

    def send(self, who: str, command: Command) -> Response:
        """One command of a host, past unit attentions."""
        while True:
            paths = self.hosts[who]
            if len(paths.nexuses) == 1:
                answer = self.execute(paths.nexuses[0], command)
            else:
                self.hosts[who], carried = carry_out(paths, command, self.execute)
                assert carried is not None
                answer = carried
            if not is_unit_attention(answer):
                return answer

    def out(self, who: str, action: OutServiceAction, key: int, new: int = 0) -> None:
        kind = TYPE if action is OutServiceAction.RESERVE else None
        answer = self.send(who, out_command(action, key, new, type=kind))
        assert answer.good, describe_response(answer)

    def begin(self) -> LunHandover:
        """The guest on host a registers and reserves."""
        self.out("a", OutServiceAction.REGISTER, 0, KEY)
        self.out("a", OutServiceAction.RESERVE, KEY)
        return LunHandover(
            "naa.1",
            tracked=Tracked(KEY, type=TYPE),
            source_spare=SPARE,
            destination_spare=SPARE_BACK,
            fresh_spare=FRESH,
        )

    def work(self, who: str, work: Work, lun: LunHandover) -> LunHandover:
        def carry_out(command: Command) -> Response:
            response = self.send(who, command)
            assert self.send("intruder", WRITE).status is Status.RESERVATION_CONFLICT, "it was free"
            return response

        return run_sync(steps_of(work, lun), carry_out)

    def all(self, lun: LunHandover, *parts: Iterable[tuple[str, Work]]) -> LunHandover:
        for part in parts:
            for who, work in part:
                lun = self.work(who, work, lun)
        return lun

    def fail(self, who: str, path: int) -> None:
        self.hosts[who] = fail(self.hosts[who], path)

    def restore(self, who: str, path: int) -> None:
        self.hosts[who] = restore(self.hosts[who], path, self.execute)

    def picture(self) -> str:
        """As "a0 abc*, c0 77": who is registered by which path with which key, and who holds."""
        state, found = self.unit.state, []
        for who, paths in sorted(self.hosts.items()):
            for number, nexus in enumerate(paths.nexuses):
                if state.key_of(nexus) and nexus not in paths.nexuses[:number]:
                    found.append(f"{who}{number} {state.key_of(nexus):x}{'*' * state.holds(nexus)}")
        return ", ".join(found)


def rig(a: Paths, b: Paths, full_status: bool = True) -> Rig:
    return Rig({"a": a, "b": b, "intruder": paths_of("intruder", (1,))}, full_status)


TWO, ONE_OF_TWO = (1, 2), (True, False)
each_lun = pytest.mark.parametrize("full_status", [True, False], ids=["full status", "keys alone"])


@each_lun
def test_row_a_a_roll_back_after_the_commit_with_a_path_down_ends_with_the_reservation(
    full_status: bool,
) -> None:
    here = rig(paths_of("a", TWO, up=ONE_OF_TWO), paths_of("b", (1,)), full_status=full_status)
    lun = here.all(here.begin(), PREPARE, COMMIT)
    assert here.picture() == "b0 abc*"
    assert here.all(lun, BACK).tracked == lun.tracked
    assert here.picture() == "a0 abc*"


@each_lun
def test_row_b_to_roll_back_alone_removes_the_destinations_registration(full_status: bool) -> None:
    here = rig(paths_of("a", TWO, up=ONE_OF_TWO), paths_of("b", (1,)), full_status=full_status)
    lun = here.begin()
    here.out("c", OutServiceAction.REGISTER, 0, OTHER)
    lun = here.all(lun, PREPARE, (("a", Work.ISOLATE), ("a", Work.EVICT)))
    assert here.picture() == "a0 abc*, c0 77"
    assert lun.tracked == Tracked(KEY, type=TYPE)
    assert here.send("b", WRITE).status is Status.RESERVATION_CONFLICT


@each_lun
def test_row_c_a_take_that_would_hurt_a_third_node_with_the_same_key_is_refused(full_status: bool) -> None:
    here = rig(paths_of("a", TWO, up=ONE_OF_TWO), paths_of("b", (1,)), full_status=full_status)
    lun = here.begin()
    here.out("c", OutServiceAction.REGISTER, 0, KEY)
    lun = here.all(lun, PREPARE)
    before = here.picture()
    for who, work in (("b", Work.CLAIM), ("a", Work.WEIGH), ("a", Work.ISOLATE)):
        with pytest.raises(StepFailed, match="is registered on a third nexus too"):
            here.work(who, work, lun)
        assert here.picture() == before == "a0 abc*, b0 abc, c0 abc"


@each_lun
def test_row_e_a_roll_back_with_a_path_down_on_each_host_ends(full_status: bool) -> None:
    a, b = (paths_of(host, TWO, up=ONE_OF_TWO) for host in "ab")
    here = rig(a, b, full_status=full_status)
    lun = here.all(here.begin(), PREPARE)
    here.work("b", Work.RETURN, lun)
    assert here.picture() == "a0 abc*"
    lun = here.all(lun, BACK)
    assert here.picture() == "a0 abc*"
    assert lun.tracked == Tracked(KEY, type=TYPE)


@pytest.mark.provokes("paths-away")
def test_what_a_path_that_is_away_prevents_is_done_when_it_is_back() -> None:
    here = rig(paths_of("a", (1,)), paths_of("b", TWO))
    lun = here.begin()
    here.out("c", OutServiceAction.REGISTER, 0, KEY)
    lun = here.all(lun, PREPARE, COMMIT)
    assert here.picture() == "b0 abc*, b1 abc, c0 abc"
    here.fail("b", 0)
    lun = here.all(lun, BACK[:3])
    with pytest.raises(StepFailed) as refused:
        here.work("b", Work.RETURN, lun)
    told = explain(str(refused.value))
    assert told is not None
    assert "paths-away" in told
    assert "Bring all paths back" in told
    here.restore("b", 0)
    here.all(lun, BACK[3:])
    assert here.picture() == "a0 abc*, c0 abc"


@pytest.mark.parametrize(
    ("before", "who", "work", "other"),
    [(PREPARE[:1], *PREPARE[1], "a"), ((*PREPARE, *COMMIT, *BACK[:2]), *BACK[2], "b")],
    ids=["prepare", "roll back"],
)
def test_a_path_that_comes_back_does_not_bring_back_a_guest_that_was_fenced(
    before: tuple[tuple[str, Work], ...], who: str, work: Work, other: str
) -> None:
    here = rig(paths_of("a", TWO), paths_of("b", TWO))
    lun = here.begin()
    here.out("c", OutServiceAction.REGISTER, 0, OTHER)
    lun = here.all(lun, before)
    here.out("c", OutServiceAction.CLEAR, OTHER)

    def carry_out(command: Command) -> Response:
        response = here.send(who, command)
        here.fail(other, 1)
        here.restore(other, 1)
        return response

    run_sync(steps_of(work, lun), carry_out)
    assert here.picture() == ""


@pytest.mark.parametrize("full_status", [True, False])
def test_a_path_that_is_away_may_hold_the_reservation_with_a_key_that_got_no_answer(
    full_status: bool,
) -> None:
    rig = Rig({"a": paths_of("a", (1, 2)), "b": paths_of("b", (1, 2))}, full_status=full_status)
    lun = replace(rig.begin(), source=Registrations(paths=2))
    # the guest's REGISTER has changed the key of the first path, which fails before it has answered
    first = rig.hosts["a"].nexuses[0]
    rig.execute(first, out_command(OutServiceAction.REGISTER, KEY, OTHER))
    rig.fail("a", 0)

    def confirmed() -> LunHandover:
        return run_sync(confirm(lun, stale=True, registered_there=False), lambda each: rig.send("a", each))

    with pytest.raises(StepFailed, match=r"held with key 0x77: .* path of this host that is away") as refused:
        confirmed()
    assert explain(str(refused.value)) is not None
    assert rig.execute(first, out_command(OutServiceAction.RELEASE, OTHER, type=TYPE)).good
    assert confirmed().tracked == Tracked(KEY)
