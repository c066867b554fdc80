"""ScsiBlock rule by rule; `test_scsi_block_any` has the properties."""

from __future__ import annotations

import pytest

from holdover.guest.gate import BECOMING_READY, REFUSAL, Gate, GateDecision
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import BlockState, NotSent, ScsiBlock
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import Inquiry, PersistentReserveOut, Read, ReportLuns, RequestSense
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation.reservation_out import (
    ParameterList,
    in_command,
    out_command,
)
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import AdditionalSense, Sense, SenseKey, check_condition
from holdover.scsi.status import Status
from tests.guest.rig import (
    CLEAR,
    GOOD,
    GUEST,
    IGNORE,
    PREEMPT,
    PREEMPT_AND_ABORT,
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
    truth,
    unreachable,
)

EA = ReservationType.EXCLUSIVE_ACCESS
WEAR = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS


ATTENTION = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.CAPACITY_DATA_HAS_CHANGED)
INVALID_FIELD_IN_CDB = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


def keys(*values: int, generation: int = 1) -> Response:
    return Response(Status.GOOD, ReadKeys(generation, values).encode())


def held(key: int = 0, type: ReservationType | None = None, generation: int = 1) -> Response:
    reservation = None if type is None else Reservation(key, type)
    return Response(Status.GOOD, ReadReservation(generation, reservation).encode())


class TestMigratePr:
    @pytest.mark.parametrize(
        ("machine_type", "explicit", "expected"),
        [
            ("pc-q35-10.2", None, False),
            ("pc-q35-11.0", None, True),
            ("q35", None, True),
            ("pc-q35-10.2", True, True),
            ("pc-q35-11.0", False, False),
        ],
    )
    def test_an_explicit_value_wins(self, machine_type: str, explicit: bool | None, expected: bool) -> None:
        options = DeviceOptions("disk0", "d", explicit)
        assert ScsiBlock(options, MachineType.parse(machine_type), Gate.RUNNING).migrate_pr is expected

    def test_a_new_device_tracks_nothing(self) -> None:
        block = scsi_block()
        assert block.state() == BlockState(True, Gate.RUNNING, Tracked(), stale=False)


class TestTracked:
    def test_what_makes_no_sense(self) -> None:
        with pytest.raises(ValueError, match="without a registration"):
            Tracked(0, type=WE)
        with pytest.raises(ValueError, match="64 bits"):
            Tracked(1 << 64)
        with pytest.raises(ValueError, match="64 bits"):
            Tracked(-1)

    def test_adopt_and_restore(self) -> None:
        block = scsi_block()
        block.mark_stale()
        assert block.stale
        block.adopt(Tracked(5, True, WE))
        assert (block.tracked, block.stale) == (Tracked(5, True, WE), False)
        state = BlockState(True, Gate.DEPARTED, Tracked(6), stale=True, candidates=(7, 6))
        block.restore(state)
        assert block.state() == state


class TestGate:
    @pytest.mark.parametrize(
        ("gate", "harmless", "other"),
        [
            (Gate.RUNNING, GateDecision.PASS, GateDecision.PASS),
            (Gate.INCOMING, GateDecision.PASS, GateDecision.HOLD),
            (Gate.LEAVING, GateDecision.PASS, GateDecision.HOLD),
            (Gate.DEPARTED, GateDecision.PASS, REFUSAL),
        ],
    )
    @pytest.mark.parametrize("migrate_pr", [True, False])
    def test_admission(
        self, gate: Gate, migrate_pr: bool, harmless: GateDecision | Response, other: GateDecision | Response
    ) -> None:
        block = scsi_block(migrate_pr)
        block.gate = gate
        assert block.admit(Command(UnitReady().encode())) == harmless
        assert block.admit(Command(Read(0, 2, 10).encode())) == other
        assert block.admit(in_command(InServiceAction.READ_KEYS)) == other
        assert block.admit(Command(b"")) == other

    @pytest.mark.parametrize(
        ("gate", "answer"),
        [
            (Gate.RUNNING, GateDecision.PASS),
            (Gate.INCOMING, BECOMING_READY),
            (Gate.LEAVING, BECOMING_READY),
            (Gate.DEPARTED, REFUSAL),
        ],
    )
    def test_the_look_of_an_opening_qemu(self, gate: Gate, answer: GateDecision | Response) -> None:
        assert scsi_block(gate=gate).admit(Command(Read(0, 1, 10).encode())) == answer


class TestPassesThrough:
    def test_all_but_persistent_reserve(self) -> None:
        block = scsi_block()
        assert block.passes_through(Command(Read(0, 1, 10).encode()).opcode)
        assert block.passes_through(Command(b"").opcode)
        assert not block.passes_through(in_command(InServiceAction.READ_KEYS).opcode)
        assert not block.passes_through(out_command(CLEAR, 1).opcode)

    def test_all_with_migrate_pr_off(self) -> None:
        assert scsi_block(False).passes_through(out_command(CLEAR, 1).opcode)

    def test_what_passes_through_is_handed_on_as_it_is(self) -> None:
        command = Command(Read(0, 1, 10).encode(), data_in_length=512)
        response = Response(Status.GOOD, bytes(512))
        steps = scsi_block().process(command)
        assert next(steps) is command
        with pytest.raises(StopIteration) as done:
            steps.send(response)
        assert done.value.value is response


class TestSnoop:
    """By the logical unit's own answers: what is tracked after a sequence of commands."""

    @pytest.mark.parametrize(
        ("commands", "expected"),
        [
            ([out_command(REGISTER, 0, 5)], Tracked(5)),
            ([out_command(REGISTER, 0, 5, aptpl=True)], Tracked(5, True)),
            ([out_command(IGNORE, 99, 5, aptpl=True)], Tracked(5, True)),
            ([out_command(REGISTER, 0, 5, aptpl=True), out_command(REGISTER, 5, 6)], Tracked(6)),
            ([out_command(REGISTER, 0, 5), out_command(RESERVE, 5, type=EA)], Tracked(5, type=EA)),
            # RESERVE has no APTPL of its own to speak of.
            (
                [out_command(REGISTER, 0, 5, aptpl=True), out_command(RESERVE, 5, type=EA)],
                Tracked(5, True, EA),
            ),
            (
                [out_command(REGISTER, 0, 5), *[out_command(RESERVE, 5, type=WERO)] * 2],
                Tracked(5, type=WERO),
            ),
            (
                [
                    out_command(REGISTER, 0, 5),
                    out_command(RESERVE, 5, type=EA),
                    out_command(REGISTER, 5, 6, aptpl=True),
                ],
                Tracked(6, True, EA),
            ),
            (
                [
                    out_command(REGISTER, 0, 5),
                    out_command(RESERVE, 5, type=EA),
                    out_command(IGNORE, 0, 6, aptpl=True),
                ],
                Tracked(6, True, EA),
            ),
            (
                [
                    out_command(REGISTER, 0, 5),
                    out_command(RESERVE, 5, type=EA),
                    out_command(RELEASE, 5, type=EA),
                ],
                Tracked(5),
            ),
            (
                [out_command(REGISTER, 0, 5), out_command(RESERVE, 5, type=EA), out_command(REGISTER, 5, 0)],
                Tracked(),
            ),
            (
                [out_command(REGISTER, 0, 5), out_command(RESERVE, 5, type=EA), out_command(IGNORE, 0, 0)],
                Tracked(),
            ),
            (
                [out_command(REGISTER, 0, 5), out_command(RESERVE, 5, type=EA), out_command(CLEAR, 5)],
                Tracked(),
            ),
            (
                [
                    out_command(REGISTER, 0, 5),
                    out_command(RESERVE, 5, type=EA),
                    out_command(PREEMPT, 5, 5, type=WE),
                ],
                Tracked(5, type=WE),
            ),
            (
                [
                    out_command(REGISTER, 0, 5),
                    out_command(RESERVE, 5, type=WEAR),
                    out_command(PREEMPT_AND_ABORT, 5, 0, type=EA),
                ],
                Tracked(5, type=EA),
            ),
            # Without a reservation, a PREEMPT of one's own key unregisters.
            ([out_command(REGISTER, 0, 5), out_command(PREEMPT, 5, 5, type=WE)], Tracked()),
        ],
    )
    def test_after_success(self, commands: list[Command], expected: Tracked) -> None:
        lun, block = logical_unit(), scsi_block()
        for command in commands:
            assert drive(block, command, lambda each: lun.execute(GUEST, each)) == GOOD
        assert (block.tracked, block.stale) == (expected, False)
        assert truth(lun) == expected

    @pytest.mark.parametrize(
        "command",
        [
            out_command(REGISTER, 9, 6),
            out_command(RESERVE, 9, type=WE),
            out_command(RESERVE, 5, type=WE),  # it holds another type
            out_command(RELEASE, 5, type=WE),
            out_command(CLEAR, 9),
        ],
    )
    def test_a_command_that_fails_changes_nothing(self, command: Command) -> None:
        lun, block = logical_unit(), scsi_block()
        for each in (out_command(REGISTER, 0, 5), out_command(RESERVE, 5, type=EA)):
            drive(block, each, lambda each: lun.execute(GUEST, each))
        assert drive(block, command, lambda each: lun.execute(GUEST, each)) != GOOD
        assert (block.tracked, block.stale) == (Tracked(5, type=EA), False)

    def test_with_migrate_pr_off_nothing_is_tracked(self) -> None:
        block = scsi_block(False)
        assert drive(block, out_command(REGISTER, 0, 5), script(GOOD)) == GOOD
        assert (block.tracked, block.stale) == (Tracked(), False)


class TestPreempt:
    """What the device says afterwards decides, not the command."""

    @pytest.mark.parametrize(
        ("before", "answers", "expected"),
        [
            (Tracked(5, True), [keys(5), held(5, EA)], Tracked(5, True, EA)),
            (Tracked(5, True), [keys(5, 6), held(6, EA)], Tracked(5, True)),
            (Tracked(5, True, WE), [keys(5, 6), held(6, EA)], Tracked(5, True)),
            (Tracked(5, True, WE), [keys(5, 6), held()], Tracked(5, True)),
            (Tracked(5, True, WE), [keys(6), held(6, EA)], Tracked()),
            (Tracked(5, True, WE), [keys(), held()], Tracked()),
            # All registrants hold these types, and the key reads 0.
            (Tracked(5), [keys(5, 6), held(0, WEAR)], Tracked(5, type=WEAR)),
            (Tracked(5), [keys(6), held(0, WEAR)], Tracked()),
            (Tracked(5), [keys(5, 5), held(0, WEAR)], Tracked(5, type=WEAR)),
            # Shared with another nexus, and held before.
            (Tracked(5, type=WE), [keys(5, 5, 6), held(5, WE)], Tracked(5, type=WE)),
        ],
    )
    @pytest.mark.parametrize("action", [PREEMPT, PREEMPT_AND_ABORT])
    def test_asked(
        self, action: OutServiceAction, before: Tracked, answers: list[Response], expected: Tracked
    ) -> None:
        block = scsi_block()
        block.adopt(before)
        assert drive(block, out_command(action, 5, 6, type=EA), script(GOOD, *answers)) == GOOD
        assert (block.tracked, block.stale) == (expected, False)

    def test_keys_beyond_the_first_allocation_length(self) -> None:
        # 8192 bytes hold 1023 keys.
        block = scsi_block()
        lun = logical_unit(registrations=1100)
        for number in range(1, 1026):
            nexus = ITNexus(IscsiTransportID("iqn.x", number.to_bytes(6, "big")))
            lun.execute(nexus, out_command(REGISTER, 0, number))
        lengths: list[int] = []

        def answer(command: Command) -> Response:
            lengths.append(command.data_in_length)
            return lun.execute(GUEST, command)

        drive(block, out_command(REGISTER, 0, 5000), answer)
        drive(block, out_command(RESERVE, 5000, type=WERO), answer)
        lengths.clear()
        assert drive(block, out_command(PREEMPT, 5000, 1), answer) == GOOD
        assert lengths == [0, 8192, 8 + 8 * 1025, 8192]
        assert (block.tracked, block.stale) == (Tracked(5000, type=WERO), False)

    @pytest.mark.parametrize(
        "answers",
        [
            [Response(Status.RESERVATION_CONFLICT)],
            [keys(5), Response(Status.BUSY)],
            [Response(Status.GOOD, b"")],
            [ATTENTION] * 16,
        ],
    )
    def test_a_question_without_an_answer_leaves_the_picture_stale(self, answers: list[Response]) -> None:
        block = scsi_block()
        block.adopt(Tracked(5, type=WE))
        assert drive(block, out_command(PREEMPT, 5, 6, type=EA), script(GOOD, *answers)) == GOOD
        assert (block.tracked, block.stale) == (Tracked(5, type=WE), True)

    def test_two_registrants_with_one_key_of_whom_one_holds(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        answers = script(GOOD, keys(5, 5), held(5, EA))
        assert drive(block, out_command(PREEMPT, 5, 6, type=EA), answers) == GOOD
        assert block.stale

    def test_a_path_that_fails_under_the_question_keeps_the_answer(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        steps = block.process(out_command(PREEMPT, 5, 6, type=EA))
        next(steps)
        steps.send(GOOD)
        with pytest.raises(StopIteration) as done:
            steps.throw(ConnectionResetError("gone"))
        assert done.value.value is GOOD
        assert block.stale

    def test_a_question_that_is_given_up_leaves_the_picture_stale(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        steps = block.process(out_command(PREEMPT, 5, 6, type=EA))
        next(steps)
        steps.send(GOOD)
        steps.close()
        assert block.stale

    def test_unit_attentions_of_the_question_are_told_to_the_guest(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        answers = script(GOOD, ATTENTION, keys(5), held(5, EA))
        assert drive(block, out_command(PREEMPT, 5, 6, type=EA), answers) == GOOD
        assert (block.tracked, block.stale) == (Tracked(5, type=EA), False)
        ready = Command(UnitReady().encode())
        for past in (Inquiry(36), ReportLuns(16), RequestSense(18)):
            assert not block.passes_through(ready.opcode)
            assert drive(block, Command(past.encode()), script(GOOD)) == GOOD
        assert drive(block, ready, unreachable) == ATTENTION
        assert block.passes_through(ready.opcode)
        assert drive(block, ready, script(GOOD)) == GOOD


class TestStale:
    """When a success or an end contradicts the picture, or leaves open what was done."""

    @pytest.mark.parametrize(
        "command",
        [
            out_command(REGISTER, 7, 8),
            out_command(RESERVE, 7, type=WE),
            out_command(RELEASE, 7, type=WE),
        ],
    )
    def test_a_success_with_another_key(self, command: Command) -> None:
        block = scsi_block()
        block.adopt(Tracked(5))
        assert drive(block, command, script(GOOD)) == GOOD
        assert block.stale
        assert block.tracked.key in (7, 8)

    @pytest.mark.parametrize(
        "command", [out_command(CLEAR, 7), out_command(REGISTER, 7, 0), out_command(IGNORE, 7, 0)]
    )
    def test_who_has_nothing_left_is_not_stale(self, command: Command) -> None:
        block = scsi_block()
        block.adopt(Tracked(5, type=WE))
        block.mark_stale()
        assert drive(block, command, script(GOOD)) == GOOD
        assert (block.tracked, block.stale) == (Tracked(), False)

    @pytest.mark.parametrize(
        "command",
        [
            Command(PersistentReserveOut(8, 24).encode(), bytes(24)),
            Command(PersistentReserveOut(0x1F, 8).encode(), bytes(8)),
            Command(PersistentReserveOut(RESERVE, 24, type=2).encode(), ParameterList(5).encode()),
            out_command(RESERVE, 0, type=WE),
        ],
    )
    def test_a_success_that_the_standard_does_not_have(self, command: Command) -> None:
        block = scsi_block()
        block.adopt(Tracked(5, type=WE))
        assert drive(block, command, script(GOOD)) == GOOD
        assert (block.tracked, block.stale) == (Tracked(5, type=WE), True)

    @pytest.mark.parametrize(
        ("response", "stale"),
        [
            (Response(Status.BUSY), False),
            (Response(Status.TASK_SET_FULL), False),
            (ATTENTION, False),
            (INVALID_FIELD_IN_CDB, False),
            (Response(Status.TASK_ABORTED), True),
            (check_condition(SenseKey.ABORTED_COMMAND), True),
            (check_condition(SenseKey.HARDWARE_ERROR), True),
            (check_condition(SenseKey.RECOVERED_ERROR), True),
            (Response(Status.CHECK_CONDITION), True),
            (Response(Status.CHECK_CONDITION, sense=Sense(SenseKey.NOT_READY).encode(True)), False),
        ],
    )
    def test_an_end_that_is_no_success(self, response: Response, stale: bool) -> None:
        block = scsi_block()
        assert drive(block, out_command(REGISTER, 0, 5), script(response)) is response
        assert (block.tracked, block.stale) == (Tracked(), stale)

    def test_a_command_that_is_given_up(self) -> None:
        block = scsi_block()
        steps = block.process(out_command(REGISTER, 0, 5))
        next(steps)
        steps.close()
        assert block.stale

    def test_a_command_that_was_not_sent_leaves_the_picture(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(4))
        steps = block.process(out_command(REGISTER, 4, 5))
        next(steps)
        with pytest.raises(NotSent):
            steps.throw(NotSent())
        assert block.state() == BlockState(True, Gate.RUNNING, Tracked(4), stale=False)

    def test_a_command_whose_answer_is_lost_leaves_two_keys_to_try(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(4))
        steps = block.process(out_command(REGISTER, 4, 5))
        next(steps)
        with pytest.raises(ConnectionResetError):
            steps.throw(ConnectionResetError())
        assert block.state() == BlockState(True, Gate.RUNNING, Tracked(4), stale=True, candidates=(5, 4))

    def test_a_node_that_comes_back_after_it_was_preempted(self) -> None:
        lun, block = logical_unit(), scsi_block()

        def answer(command: Command) -> Response:
            return lun.execute(GUEST, command)

        drive(block, out_command(REGISTER, 0, 5), answer)
        drive(block, out_command(RESERVE, 5, type=WERO), answer)
        lun.execute(THIRD, out_command(REGISTER, 0, 6))
        lun.execute(THIRD, out_command(PREEMPT, 6, 5, type=WERO))
        while drive(block, Command(UnitReady().encode()), answer) != GOOD:
            pass
        assert drive(block, out_command(IGNORE, 0, 5), answer) == GOOD
        assert (block.tracked, block.stale) == (Tracked(5), False)
        assert truth(lun) == Tracked(5)

    def test_one_that_comes_back_with_the_key_of_the_holder(self) -> None:
        block = scsi_block()
        block.adopt(Tracked(5, type=WE))
        assert drive(block, out_command(IGNORE, 0, 5), script(GOOD, keys(5, 5), held(5, WE))) == GOOD
        assert block.stale

    def test_one_that_finds_itself_unregistered_and_registers(self) -> None:
        lun, block = logical_unit(), scsi_block()
        for each in (out_command(REGISTER, 0, 5), out_command(RESERVE, 5, type=WERO)):
            drive(block, each, lambda each: lun.execute(GUEST, each))
        lun.execute(THIRD, out_command(REGISTER, 0, 6))
        lun.execute(THIRD, out_command(PREEMPT, 6, 5, type=WERO))
        answer = drive(block, out_command(REGISTER, 0, 5), lambda each: lun.execute(GUEST, each))
        assert answer.status is Status.CHECK_CONDITION
        assert block.stale
        assert drive(block, out_command(REGISTER, 0, 5), lambda each: lun.execute(GUEST, each)) == GOOD
        assert (block.tracked, block.stale) == (Tracked(5), False)
        assert truth(lun) == Tracked(5)
