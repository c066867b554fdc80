"""ScsiBlock when others are at work, or when a command has no end: intent, doubt, unit attentions."""

from __future__ import annotations

import pytest

from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_in import ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status
from tests.guest.rig import (
    CLEAR,
    GOOD,
    GUEST,
    IGNORE,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    THIRD,
    WE,
    WERO,
    drive,
    logical_unit,
    script,
    scsi_block,
    unreachable,
)

READ_KEYS = InServiceAction.READ_KEYS

ATTENTION = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.CAPACITY_DATA_HAS_CHANGED)
RELEASED = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_RELEASED)
PREEMPTED = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.REGISTRATIONS_PREEMPTED)


def keys(*values: int, generation: int = 1) -> Response:
    return Response(Status.GOOD, ReadKeys(generation, values).encode())


def held(key: int = 0, generation: int = 1) -> Response:
    reservation = Reservation(key, WE) if key else None
    return Response(Status.GOOD, ReadReservation(generation, reservation).encode())


class TestIntent:
    """What a stored state says while a PERSISTENT RESERVE OUT of the guest is under way."""

    @pytest.mark.parametrize(
        ("before", "command", "candidates"),
        [
            (Tracked(), out_command(REGISTER, 0, 5), (5,)),
            (Tracked(4), out_command(REGISTER, 4, 5), (5, 4)),
            (Tracked(4), out_command(IGNORE, 9, 5), (5, 4, 9)),
            (Tracked(4), out_command(REGISTER, 4, 0), (4,)),
            (Tracked(4), out_command(CLEAR, 4), (4,)),
            (Tracked(4), out_command(PREEMPT, 4, 6, type=WE), (4,)),
            (Tracked(4), Command(PersistentReserveOut(8, 24).encode(), bytes(24)), ()),
        ],
    )
    def test_it_is_stale_and_names_the_keys(
        self, before: Tracked, command: Command, candidates: tuple[int, ...]
    ) -> None:
        block = scsi_block()
        block.adopt(before)
        steps = block.process(command)
        next(steps)
        assert block.state() == BlockState(True, Gate.RUNNING, before, stale=True, candidates=candidates)
        with pytest.raises(StopIteration):
            steps.send(Response(Status.BUSY))
        assert block.state() == BlockState(True, Gate.RUNNING, before, stale=False)

    def test_a_refused_command_is_not_under_way(self) -> None:
        block = scsi_block()
        drive(block, Command(b"\x5f"), unreachable)
        assert not block.stale

    def test_what_is_adopted_too_late_leaves_the_keys_in_doubt(self) -> None:
        block = scsi_block()
        drive(block, out_command(IGNORE, 0, 5), script(Response(Status.TASK_ABORTED)))
        block.adopt(Tracked(), block.staleness_epoch - 1)
        assert block.state() == BlockState(True, Gate.RUNNING, Tracked(), stale=True, candidates=(5,))
        block.adopt(Tracked(5), block.staleness_epoch)
        assert block.state() == BlockState(True, Gate.RUNNING, Tracked(5), stale=False)

    def test_keys_of_commands_without_an_end_add_up(self) -> None:
        block = scsi_block()
        for key in range(1, 12):
            assert drive(block, out_command(IGNORE, 0, key), script(Response(Status.TASK_ABORTED))).status
        assert block.candidates == (11, 10, 9, 8, 7, 6, 5, 4)
        assert drive(block, out_command(IGNORE, 0, 3), script(GOOD, keys(3), held())) == GOOD
        assert block.state() == BlockState(True, Gate.RUNNING, Tracked(3), stale=False)


class TestDoubt:
    """What others did shows in what the guest's nexus is told."""

    @pytest.mark.parametrize(
        "command", [Command(UnitReady().encode()), out_command(RESERVE, 5, type=WE), in_command(READ_KEYS)]
    )
    def test_unit_attentions_of_any_command(self, command: Command) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        assert drive(block, command, script(PREEMPTED)) is PREEMPTED
        assert (block.tracked, block.stale, block.staleness_epoch) == (Tracked(5), True, 1)

    def test_notice(self) -> None:
        block = scsi_block()
        assert not block.observe_attention(GOOD)
        assert not block.observe_attention(ATTENTION)
        assert block.observe_attention(PREEMPTED)
        assert block.stale
        assert not scsi_block(False).observe_attention(PREEMPTED)

    def test_one_that_comes_beside_a_first_registration_stays(self) -> None:
        block = scsi_block()
        steps = block.process(out_command(REGISTER, 0, 5))
        next(steps)
        block.observe_attention(PREEMPTED)
        with pytest.raises(StopIteration):
            steps.send(GOOD)
        assert (block.tracked, block.stale) == (Tracked(5), True)

    def test_one_that_the_question_after_a_preempt_meets_came_before_its_answer(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        answers = script(GOOD, PREEMPTED, keys(5), held(5))
        assert drive(block, out_command(PREEMPT, 5, 6, type=WE), answers) == GOOD
        assert (block.tracked, block.stale) == (Tracked(5, type=WE), False)

    def test_a_picture_that_was_stale_is_no_witness_to_whose_a_reservation_is(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5, type=WE))
        block.mark_stale()
        assert drive(block, out_command(PREEMPT, 5, 6, type=WE), script(GOOD, keys(5, 5), held(5))) == GOOD
        assert block.stale

    def test_a_conflict_that_what_is_tracked_does_not_explain(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        conflict = Response(Status.RESERVATION_CONFLICT)
        drive(block, out_command(RELEASE, 9, type=WE), script(conflict))
        assert not block.stale
        drive(block, out_command(RELEASE, 5, type=WE), script(conflict))
        assert block.stale

    @pytest.mark.parametrize(("tracked", "stale"), [(Tracked(5), True), (Tracked(), False)])
    def test_a_conflict_that_a_read_meets(self, tracked: Tracked, stale: bool) -> None:
        for read in (in_command(READ_KEYS), in_command(InServiceAction.READ_RESERVATION)):
            block = scsi_block()
            block.adopt(tracked)
            conflict = Response(Status.RESERVATION_CONFLICT)
            assert block.observe_unchanged(read, conflict) is None
            assert drive(block, read, script(conflict)) == conflict
            assert block.stale is stale

    def test_a_generation_that_moved(self) -> None:
        lun, block = logical_unit(), scsi_block()

        def tell(command: Command) -> None:
            assert drive(block, command, lambda each: lun.execute(GUEST, each)).good

        tell(in_command(READ_KEYS))
        for each in (out_command(REGISTER, 0, 5), out_command(RESERVE, 5, type=WERO), in_command(READ_KEYS)):
            tell(each)
        assert not block.stale
        lun.execute(THIRD, out_command(REGISTER, 0, 6))
        tell(in_command(InServiceAction.REPORT_CAPABILITIES))
        assert not block.stale
        tell(in_command(InServiceAction.READ_RESERVATION))
        assert block.stale

    def test_the_generation_is_nothing_to_who_is_not_registered(self) -> None:
        lun, block = logical_unit(), scsi_block()
        for key in (6, 0):
            drive(block, in_command(READ_KEYS), lambda each: lun.execute(GUEST, each))
            lun.execute(THIRD, out_command(REGISTER, 6 - key, key))
        assert not block.stale

    def test_a_generation_that_was_read_beside_a_command_of_the_guest_says_nothing(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5), generation=1)
        drive(block, in_command(READ_KEYS), script(keys(5, generation=1)))
        beside = block.process(in_command(READ_KEYS))
        next(beside)
        drive(block, out_command(REGISTER, 5, 6), script(GOOD))
        with pytest.raises(StopIteration):
            beside.send(keys(6, generation=9))
        assert not block.stale

    def test_a_generation_that_nothing_is_known_to_compare_with(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        drive(block, in_command(READ_KEYS), script(keys(5, generation=1)))
        assert (block.stale, block.staleness_epoch) == (True, 1)
        drive(block, in_command(READ_KEYS), script(keys(5, generation=1)))
        assert block.staleness_epoch == 1

    def test_a_preempt_reads_the_generation_too(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        answers = script(GOOD, keys(5, generation=7), held(5, generation=7))
        drive(block, out_command(PREEMPT, 5, 6, type=WE), answers)
        drive(block, in_command(READ_KEYS), script(keys(5, generation=7)))
        assert not block.stale

    def test_what_is_read_beside_commands_of_the_agents_own_says_nothing(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5), generation=1)
        late = block.process(in_command(READ_KEYS))
        next(late)
        block.begin_own()
        drive(block, in_command(READ_KEYS), script(keys(5, generation=2)))
        later = block.process(in_command(READ_KEYS))
        next(later)
        block.adopt(Tracked(5), block.staleness_epoch, 3)
        block.end_own()
        for beside in (late, later):
            with pytest.raises(StopIteration):
                beside.send(keys(5, generation=2))
        assert not block.stale
        drive(block, in_command(READ_KEYS), script(keys(5, generation=3)))
        assert not block.stale
        drive(block, in_command(READ_KEYS), script(keys(5, generation=4)))
        assert block.stale

    def test_what_comes_up_while_the_logical_unit_is_asked_stays(self) -> None:
        block = scsi_block()
        block.mark_stale()
        seen = block.staleness_epoch
        block.observe_attention(PREEMPTED)
        block.adopt(Tracked(5), seen)
        assert (block.tracked, block.stale) == (Tracked(5), True)
        block.adopt(Tracked(5), block.staleness_epoch)
        assert not block.stale


class TestMeet:
    """Unit attentions that commands of the agent's own have met."""

    @pytest.mark.parametrize(
        ("gate", "response", "told"),
        [
            (Gate.RUNNING, "ATTENTION", True),
            (Gate.RUNNING, "PREEMPTED", True),
            (Gate.LEAVING, "ATTENTION", True),
            (Gate.LEAVING, "PREEMPTED", True),
            (Gate.INCOMING, "PREEMPTED", False),
            (Gate.INCOMING, "ATTENTION", False),
            (Gate.DEPARTED, "ATTENTION", False),
        ],
    )
    def test_they_are_the_guests_if_it_is_here(self, gate: Gate, response: str, told: bool) -> None:
        block = scsi_block(gate=gate)
        met = {"ATTENTION": ATTENTION, "PREEMPTED": PREEMPTED}[response]
        for _ in range(2):
            block.observe_own_response(met)
        block.gate = Gate.RUNNING
        ready = Command(UnitReady().encode())
        if told:
            assert drive(block, ready, unreachable) == met
        assert drive(block, ready, script(GOOD)) == GOOD

    @pytest.mark.parametrize("gate", [Gate.LEAVING, Gate.INCOMING])
    def test_one_of_its_reservation_while_it_moves_is_a_doubt_of_what_is_known_after(
        self, gate: Gate
    ) -> None:
        block = scsi_block(gate=gate)
        seen = block.staleness_epoch
        assert block.observe_own_response(PREEMPTED)
        assert not block.stale
        block.adopt(Tracked(5), seen)
        assert (block.tracked, block.stale) == (Tracked(5), True)
        block.adopt(Tracked(5), block.staleness_epoch)
        assert not block.stale

    def test_what_the_guest_has_not_heard_of_its_reservation(self) -> None:
        block = scsi_block()
        block.observe_own_response(ATTENTION)
        assert not block.pending_attentions
        block.observe_own_response(PREEMPTED)
        block.gate = Gate.LEAVING
        block.observe_own_response(PREEMPTED)
        block.observe_own_response(RELEASED)
        assert list(block.pending_attentions) == [0x2A05, 0x2A04]
        block.drop_attentions((0x2A05,))
        assert list(block.pending_attentions) == [0x2A04]
        block.gate = Gate.RUNNING
        ready = Command(UnitReady().encode())
        assert [drive(block, ready, unreachable) for _ in range(2)] == [ATTENTION, RELEASED]
        assert drive(block, ready, script(GOOD)) == GOOD

    def test_what_the_other_host_says_that_it_is_to_hear_is_told_once(self) -> None:
        block = scsi_block()
        for _ in range(2):
            block.pass_on((0x2A05, 0x2A04))
        ready = Command(UnitReady().encode())
        assert [drive(block, ready, unreachable) for _ in range(2)] == [PREEMPTED, RELEASED]
        assert drive(block, ready, script(GOOD)) == GOOD

    def test_what_was_to_be_told_goes_with_the_guest(self) -> None:
        block = scsi_block()
        block.observe_own_response(ATTENTION)
        block.forget_attentions()
        assert block.passes_through(Command(UnitReady().encode()).opcode)
