"""A guest's device whose picture has become stale asks the LUN again."""

from __future__ import annotations

import asyncio

import pytest

from holdover.guest.gate import Gate
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.path import AnswerLost
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, decode_sense, is_unit_attention
from tests.agent.device_rig import GUEST, Rig
from tests.agent.guests.device_states import READ, READY, REGISTER, RESERVE, WERO, _one, settled, unsettled

IGNORE, PREEMPT = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, OutServiceAction.PREEMPT
CLEAR = OutServiceAction.CLEAR


class TestReread:
    def test_a_lost_answer_is_looked_for_at_the_lun(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            rig.path.script = [AnswerLost("memory", "gone")]
            response = await rig.tell(out_command(REGISTER, 5, 6))
            assert decode_sense(response.sense).key is SenseKey.ABORTED_COMMAND
            assert rig.records[-1] == unsettled(Tracked(5), 6, 5)
            await rig.settle()
            assert rig.records[-1] == rig.device.block.state() == settled(Tracked(6))

        asyncio.run(test())

    def test_a_unit_attention_on_a_read_is_on_record_before_the_guest_has_it_and_then_settled(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            await rig.must(out_command(RESERVE, 5, type=WERO))
            rig.third(out_command(REGISTER, 0, 6))
            rig.third(out_command(PREEMPT, 6, 5, type=WERO))
            assert is_unit_attention(await rig.tell(READ))
            assert rig.records[-1] == unsettled(Tracked(5, type=WERO))
            await rig.settle()
            assert rig.records[-1] == rig.device.block.state() == settled(Tracked())

        asyncio.run(test())

    @pytest.mark.parametrize("asked", range(1, 9))
    def test_another_node_that_acts_between_two_questions(self, asked: int) -> None:
        async def test() -> None:
            rig = Rig()
            rig.third(out_command(REGISTER, 0, 6))
            await rig.must(out_command(REGISTER, 0, 5))
            count = 0

            def act() -> None:
                nonlocal count
                count += 1
                if count == asked:
                    rig.third(out_command(CLEAR, 6))

            rig.path.after = act
            rig.device.block.mark_stale()
            rig.device.read_again()
            await rig.settle()
            await rig.tell(READY)
            await rig.tell(READY)
            await rig.settle()
            assert rig.device.block.state() == settled(rig.truth)

        asyncio.run(test())

    def test_a_generation_that_moved(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(in_command(InServiceAction.READ_KEYS))
            await rig.must(out_command(REGISTER, 0, 5))
            rig.third(out_command(REGISTER, 0, 6))
            await rig.must(in_command(InServiceAction.READ_KEYS))
            assert rig.device.block.stale
            await rig.settle()
            assert rig.device.block.state() == settled(Tracked(5))

        asyncio.run(test())

    @pytest.mark.parametrize("carried", [(), ("one", "two")])
    def test_behind_multipath_a_command_of_the_guest_moves_the_generation_by_more(
        self, carried: tuple[str, ...]
    ) -> None:
        async def test() -> None:
            rig = Rig()
            rig.path.nexuses = 2
            rig.path.carried = carried
            await rig.must(in_command(InServiceAction.READ_KEYS))
            await rig.must(out_command(REGISTER, 0, 5))
            rig.third(out_command(REGISTER, 0, 5))  # the other path
            # by how much is not known, so that it is looked into once, and is nothing
            asked = 0
            for _ in range(3):
                await rig.must(in_command(InServiceAction.READ_KEYS))
                await rig.settle()
                assert rig.device.block.state() == settled(Tracked(5))
                assert asked in (0, len(rig.path.outs()))
                asked = len(rig.path.outs())

        asyncio.run(test())

    @pytest.mark.parametrize("action", [InServiceAction.READ_RESERVATION, InServiceAction.READ_KEYS])
    @pytest.mark.parametrize("forgotten", ["restart", "own REGISTER", "multipath", "lost answer", "PREEMPT"])
    def test_a_preemption_past_the_agent_shows_whatever_has_moved_the_generation_before(
        self, forgotten: str, action: InServiceAction
    ) -> None:
        async def test() -> None:
            rig = Rig()
            rig.path.nexuses = 1 + (forgotten == "multipath")
            await rig.must(out_command(REGISTER, 0, 5))
            await rig.must(in_command(action))
            await rig.settle()
            if forgotten == "lost answer":
                rig.path.script = [AnswerLost("memory", "gone")]
                await rig.tell(out_command(REGISTER, 5, 5))
            await rig.must(out_command(RESERVE, 5, type=WERO))
            if forgotten == "PREEMPT":
                rig.third(out_command(REGISTER, 0, 7))
                await rig.must(out_command(PREEMPT, 5, 7, type=WERO))
            if forgotten == "own REGISTER":
                await rig.device.run(_one(out_command(REGISTER, 5, 5)), 1)
            if forgotten == "restart":
                again = Rig()
                again.path.unit = again.unit = rig.unit
                again.device.block.restore(rig.device.block.state())
                again.device.block.mark_stale()
                await again.device.reread(1)
                rig = again
            await rig.settle()
            assert rig.device.block.state() == settled(Tracked(5, type=WERO))
            rig.third(out_command(REGISTER, 0, 6))
            rig.third(out_command(PREEMPT, 6, 5, type=WERO))
            # a data command of the guest, which no agent sees through the helper front end
            assert is_unit_attention(rig.unit.execute(GUEST, READY))
            await rig.must(in_command(action))
            await rig.settle()
            assert rig.device.block.state() == settled(Tracked())

        asyncio.run(test())

    def test_what_the_questions_themselves_meet_is_answered_by_them(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            rig.third(out_command(REGISTER, 0, 6))
            rig.third(out_command(PREEMPT, 6, 5))
            assert (await rig.device.reread(1)).certain
            assert rig.device.block.state() == settled(Tracked())
            assert is_unit_attention(await rig.tell(READ))

        asyncio.run(test())

    def test_the_second_time_it_reads_alone(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            assert (await rig.device.reread(1)).certain
            assert len(rig.path.outs()) == 2
            for key in (6, 7):
                rig.third(out_command(IGNORE, 0, key))
                rig.device.block.mark_stale()
                assert (await rig.device.reread(1)).certain
                assert not rig.device.block.stale
            assert len(rig.path.outs()) == 2

        asyncio.run(test())

    def test_a_doubt_is_looked_into_though_somebody_has_adopted_an_older_answer(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            rig.third(out_command(REGISTER, 0, 6))
            rig.third(out_command(PREEMPT, 6, 5))
            await rig.tell(READ)
            rig.device.block.adopt(Tracked(5))
            await rig.settle()
            assert rig.device.block.state() == settled(Tracked())

        asyncio.run(test())

    def test_one_at_a_time_and_not_for_ever(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            released = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_RELEASED)
            rig.path.after = rig.device.block.mark_stale
            rig.path.script = [released, released]
            await asyncio.gather(rig.tell(READ), rig.tell(READ))
            await rig.settle()
            reports = [each for each in rig.path.seen if each.cdb[:2] == b"\x5e\x02"]
            assert len(reports) == 4
            assert rig.device.block.stale

        asyncio.run(test())

    @pytest.mark.parametrize("gate", [Gate.LEAVING, Gate.INCOMING, Gate.DEPARTED])
    def test_in_a_handover_it_is_left_alone(self, gate: Gate) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            released = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_RELEASED)
            rig.path.script = [released]
            await rig.tell(READ)
            rig.device.move_gate(gate)
            seen = len(rig.path.seen)
            await rig.settle()
            assert len(rig.path.seen) == seen
            assert rig.device.block.stale

        asyncio.run(test())

    def test_what_comes_up_meanwhile_stays_stale(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            hold = asyncio.Event()
            rig.path.script = [None, hold]
            rereading = asyncio.ensure_future(rig.device.reread(1))
            await rig.settle()
            rig.device.block.mark_stale()
            hold.set()
            await rereading
            assert rig.device.block.stale
            await rig.device.reread(1)
            assert not rig.device.block.stale

        asyncio.run(test())

    @pytest.mark.parametrize(
        ("adopt", "sole", "adopted"),
        [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
    )
    def test_a_registration_that_the_agent_did_not_see(
        self, adopt: bool | None, sole: bool, adopted: bool
    ) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            again = Rig()
            again.path.unit = rig.unit
            again.device.adopt, again.device.sole_nexus = adopt, sole
            assert (await again.device.reread(1)).tracked == Tracked(5)
            assert again.device.tracked == (Tracked(5) if adopted else Tracked())
            assert bool(again.device.report) is not adopted

        asyncio.run(test())

    @pytest.mark.parametrize(
        "command",
        [
            out_command(IGNORE, 0, 6),
            out_command(REGISTER, 5, 6),
            out_command(REGISTER, 5, 0),
            out_command(RESERVE, 5, type=WERO),
            out_command(OutServiceAction.CLEAR, 5),
        ],
    )
    def test_the_report_of_one_goes_when_the_guest_shows_that_it_knows_better(self, command: Command) -> None:
        async def test() -> None:
            rig = Rig()
            assert rig.unit.execute(GUEST, out_command(REGISTER, 0, 5)).good
            await rig.device.reread(1)
            assert rig.device.block.stale
            assert "registered with key 0x5" in rig.device.report
            await rig.must(command)
            await rig.settle()
            assert rig.device.report == ""
            assert rig.device.block.state() == settled(rig.truth)

        asyncio.run(test())

    def test_it_goes_when_the_guest_has_left(self) -> None:
        async def test() -> None:
            rig = Rig()
            assert rig.unit.execute(GUEST, out_command(REGISTER, 0, 5)).good
            await rig.device.reread(1)
            assert rig.device.report
            rig.device.move_gate(Gate.DEPARTED)
            rig.device.block.adopt(Tracked())
            assert rig.device.report == ""

        asyncio.run(test())

    def test_what_was_found_and_is_not_adopted_is_stale(self) -> None:
        async def test() -> None:
            rig = Rig()
            assert rig.unit.execute(GUEST, out_command(REGISTER, 0, 5)).good
            assert not rig.device.block.stale
            await rig.device.reread(1)
            assert rig.device.block.stale

        asyncio.run(test())
