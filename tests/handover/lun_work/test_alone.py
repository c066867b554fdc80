"""The work of a destination whose source cannot be asked, or has gone on without it."""

from __future__ import annotations

import pytest
from msgspec import structs
from msgspec.structs import replace

from holdover.handover.lun_handover import UNREGISTERED, LunHandover, Registrations
from holdover.handover.lun_work.work import Work, steps_of
from holdover.reservations.driver import run_sync
from holdover.reservations.steps import StepFailed
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from tests.handover.work_rig import (
    DESTINATION,
    FORWARD,
    FRESH,
    INTRUDER,
    KEY,
    OTHER,
    SOURCE,
    THIRD,
    Case,
    Rig,
    forward,
    lun_of,
)

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


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


def test_a_destination_with_several_paths_withdraws_and_leaves_aptpl_as_it_is_now() -> None:
    case = Case(
        ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, guest_holds=True, third_key=OTHER, aptpl=False
    )
    rig = case.set_up()
    lun = forward(rig, case, 3)
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, FRESH, aptpl=True))

    def by_two_paths(command: Command) -> Response:
        answer = rig.tell(DESTINATION, command)
        assert rig.unit.state.aptpl, "turned off"
        is_out = command.opcode == OperationCode.PERSISTENT_RESERVE_OUT
        return structs.replace(answer, carried=("a", "b")) if is_out and answer.good else answer

    rig.watch = lambda: None
    run_sync(steps_of(Work.WITHDRAW, lun), by_two_paths)
    assert rig.registrations() == {SOURCE: FRESH, THIRD: OTHER}


@pytest.mark.parametrize("full_status", [True, False])
@pytest.mark.parametrize("port", ["", str(SOURCE.initiator)])
def test_a_destination_never_withdraws_the_holder(full_status: bool, port: str) -> None:
    """Another host has its InitiatorName, and the guest is there. The source has the guest's key too."""
    kind = ReservationType.WRITE_EXCLUSIVE
    rig = Rig(full_status=full_status)
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, 0, KEY))
    rig.must(DESTINATION, out_command(OutServiceAction.RESERVE, KEY, type=kind))
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY))
    before = rig.registrations()
    with pytest.raises(StepFailed, match="would be freed"):
        rig.work(DESTINATION, Work.WITHDRAW, replace(lun_of(Tracked(KEY, type=kind)), port=port))
    assert rig.registrations() == before
    assert rig.holder() == (kind, DESTINATION)


@pytest.mark.parametrize("kind", [None, *ReservationType])
def test_a_former_key_of_the_guest_that_a_third_node_has_now_is_not_taken(
    kind: ReservationType | None,
) -> None:
    """The guest has changed its key while the destination's agent was away."""
    case = Case(kind, guest_holds=True, third_key=0, aptpl=False)
    rig = case.set_up()
    lun = replace(forward(rig, case, 3), port=str(SOURCE.initiator))
    rig.watch = lambda: None
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, OTHER))
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, 0, KEY))
    before = rig.registrations()
    with pytest.raises(StepFailed, match=r"third nexus|not the one that was prepared"):
        rig.work(DESTINATION, Work.CLAIM, lun)
    assert rig.registrations() == before


def named(lun: LunHandover) -> LunHandover:
    """The LUN as it is known where each host has one nexus, whose initiator port is known."""
    there = replace(lun.destination, ports=(str(DESTINATION.initiator),))
    return replace(lun, port=str(SOURCE.initiator), destination=there)


def fenced(case: Case, stages: int) -> tuple[Rig, LunHandover]:
    """The guest was fenced while it was handed over, and a third node has its key since."""
    rig = case.set_up()
    lun = named(forward(rig, case, stages))
    rig.watch = lambda: None
    rig.must(THIRD, out_command(OutServiceAction.PREEMPT, OTHER, KEY, type=case.type or WERO))
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, OTHER, KEY))
    return rig, lun


@pytest.mark.parametrize("kind", [None, *ReservationType])
def test_a_source_alone_leaves_a_third_nodes_key_that_the_guest_had(kind: ReservationType | None) -> None:
    rig, lun = fenced(Case(kind, guest_holds=False, third_key=OTHER, aptpl=False), 3)
    before, held = rig.registrations(), rig.holder()
    for work in (Work.WEIGH, Work.ISOLATE, Work.EVICT):
        lun = rig.work(SOURCE, work, lun)
    assert lun.tracked == UNREGISTERED
    assert (rig.registrations(), rig.holder()) == (before, held)


@pytest.mark.parametrize("kind", [None, *ReservationType])
def test_a_guest_that_was_fenced_does_not_come_back_by_a_third_nodes_key(
    kind: ReservationType | None,
) -> None:
    case = Case(kind, guest_holds=False, third_key=OTHER, aptpl=False)
    rig, lun = fenced(case, len(FORWARD))
    before = rig.registrations()
    found = rig.work(SOURCE, Work.RECLAIM, rig.work(SOURCE, Work.ASK, lun))
    assert found.tracked == UNREGISTERED
    rig, lun = fenced(case, 2)
    rig.work(DESTINATION, Work.REGISTER, lun)
    assert rig.registrations() == before


def test_a_guest_that_has_registered_on_the_destination_is_seen_beside_a_third_node_that_leaves() -> None:
    rig = Rig()
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, 0, KEY))
    lun = named(replace(lun_of(UNREGISTERED), others=(KEY,)))
    rig.work(SOURCE, Work.WEIGH, lun)
    rig.must(DESTINATION, out_command(OutServiceAction.REGISTER, 0, KEY))
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, KEY, 0))
    with pytest.raises(StepFailed, match="and the guest is not registered here"):
        rig.work(SOURCE, Work.WEIGH, lun)


def test_a_guest_that_has_registered_on_the_source_is_seen_beside_a_third_node_that_leaves() -> None:
    rig = Rig()
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, 0, KEY))
    lun = named(replace(lun_of(UNREGISTERED), others=(KEY,)))
    rig.work(DESTINATION, Work.CLAIM, lun)
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY))
    rig.must(THIRD, out_command(OutServiceAction.REGISTER, KEY, 0))
    with pytest.raises(StepFailed, match="may have registered on the source"):
        rig.work(DESTINATION, Work.CLAIM, lun)


def test_a_path_that_is_away_may_hold_what_a_third_node_may_hold() -> None:
    """Another nexus of this host has the guest's key too, and READ RESERVATION names no nexus."""
    rig = Rig()
    for nexus in (DESTINATION, INTRUDER):
        rig.must(nexus, out_command(OutServiceAction.REGISTER, 0, KEY))
    rig.must(INTRUDER, out_command(OutServiceAction.RESERVE, KEY, type=ReservationType.EXCLUSIVE_ACCESS))
    before, execute = rig.registrations(), rig.unit.execute

    def carried(nexus: ITNexus, command: Command) -> Response:
        return replace(execute(nexus, command), carried=("path",))

    rig.unit.execute = carried  # type: ignore[method-assign]
    tracked = Tracked(KEY, type=ReservationType.WRITE_EXCLUSIVE)
    lun = replace(lun_of(tracked), destination=Registrations(several=True, paths=2), standing=(KEY,))
    with pytest.raises(StepFailed, match="path of this host that is away"):
        rig.work(DESTINATION, Work.ASCERTAIN, lun)
    assert rig.registrations() == before
    alone = replace(lun, destination=Registrations(several=True, paths=1))
    assert rig.work(DESTINATION, Work.ASCERTAIN, alone).tracked.type is None


@pytest.mark.parametrize("knows_source", [True, False])
def test_two_paths_of_one_port_do_not_pass_for_the_source(knows_source: bool) -> None:
    """The guest has changed its key since the prepare, and only the source knows the new one."""
    rig = Rig()
    paths = (DESTINATION, ITNexus(DESTINATION.initiator, 2))
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, 0, KEY))
    for each in paths:
        rig.must(each, out_command(OutServiceAction.REGISTER, 0, KEY))

    def by_both(command: Command) -> Response:
        answers = [rig.tell(each, command) for each in paths]
        is_out = command.opcode == OperationCode.PERSISTENT_RESERVE_OUT
        return structs.replace(answers[0], carried=("p", "p")) if is_out and answers[0].good else answers[0]

    theirs = Registrations(ports=(str(SOURCE.initiator),) if knows_source else ())
    ours = Registrations(several=True, ports=(str(DESTINATION.initiator),), paths=2)
    lun = replace(lun_of(Tracked(KEY)), source=theirs, destination=ours)
    assert run_sync(steps_of(Work.CLAIM, lun), by_both) == lun
    rig.must(SOURCE, out_command(OutServiceAction.REGISTER, KEY, 0x77))
    with pytest.raises(StepFailed, match="the source's registration is not there any more"):
        run_sync(steps_of(Work.CLAIM, lun), by_both)
