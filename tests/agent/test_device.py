"""A guest's device: what is on record, what is read again, who has to wait for whom."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.agent.device import GuestDevice
from holdover.guest.gate import REFUSAL, Gate
from holdover.guest.scsi_block import BlockState
from holdover.guest.snoop import Tracked
from holdover.handover.steps import Steps
from holdover.paths.path import AnswerLost, PathError
from holdover.scsi.cdb import Read
from holdover.scsi.cdb import TestUnitReady as UnitReady
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, decode_sense, is_unit_attention
from holdover.scsi.status import Status
from tests.agent.device_rig import Rig

REGISTER, RESERVE = OutServiceAction.REGISTER, OutServiceAction.RESERVE
IGNORE, PREEMPT = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, OutServiceAction.PREEMPT
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
READY = Command(UnitReady().encode())
READ = Command(Read(0, 1, 10).encode(), data_in_length=512)
BUSY = Response(Status.BUSY)
ATTENTION = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.CAPACITY_DATA_HAS_CHANGED)


def settled(tracked: Tracked) -> BlockState:
    return BlockState(True, Gate.RUNNING, tracked, stale=False)


def unsettled(tracked: Tracked, *candidates: int) -> BlockState:
    return BlockState(True, Gate.RUNNING, tracked, stale=True, candidates=candidates)


class TestRecord:
    def test_what_is_about_to_change_and_what_it_has_become(self) -> None:
        async def test() -> None:
            rig = Rig()
            at_lun: list[BlockState] = []
            rig.path.after = lambda: at_lun.append(rig.records[-1])
            await rig.must(out_command(REGISTER, 0, 5, aptpl=True))
            assert at_lun == [unsettled(Tracked(), 5)]
            assert rig.records == [unsettled(Tracked(), 5), settled(Tracked(5, True))]

        asyncio.run(test())

    @pytest.mark.parametrize(
        "end", [BUSY, PathError("memory", "away"), Response(Status.RESERVATION_CONFLICT)]
    )
    def test_what_was_not_carried_out_leaves_what_was(self, end: Response | PathError) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            rig.path.script = [end]
            assert not (await rig.tell(out_command(REGISTER, 6, 7))).good
            assert rig.records[-2:] == [unsettled(Tracked(5), 7, 5, 6), settled(Tracked(5))]
            assert rig.device.changes == 1

        asyncio.run(test())

    def test_other_commands_leave_no_record(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(READ)
            await rig.must(in_command(InServiceAction.READ_KEYS))
            assert not (await rig.tell(Command(b"\x5f" + bytes(9)))).good  # refused here
            rig.path.script = [ATTENTION]
            assert is_unit_attention(await rig.tell(READ))
            assert rig.records == []

        asyncio.run(test())

    def test_with_migrate_pr_off_there_is_none(self) -> None:
        async def test() -> None:
            rig = Rig(migrate_pr=False)
            await rig.must(out_command(REGISTER, 0, 5))
            assert (rig.records, rig.device.changes) == ([], 0)

        asyncio.run(test())

    def test_what_cannot_be_recorded_is_not_sent(self) -> None:
        async def test() -> None:
            async def fail(_: GuestDevice) -> None:
                raise OSError("no space left")

            rig = Rig()
            rig.device.on_change = fail
            response = await rig.tell(out_command(REGISTER, 0, 5))
            assert decode_sense(response.sense).key is SenseKey.ABORTED_COMMAND
            assert rig.path.seen == []
            assert rig.device.block.state() == settled(Tracked())
            assert rig.device.changes == 0

        asyncio.run(test())

    def test_what_it_has_become_cannot_be_recorded(self) -> None:
        async def test() -> None:
            async def fail_then(device: GuestDevice) -> None:
                if rig.records:
                    raise OSError("no space left")
                await rig.record(device)

            rig = Rig()
            rig.device.on_change = fail_then
            await rig.must(out_command(REGISTER, 0, 5))
            assert rig.records == [unsettled(Tracked(), 5)]

        asyncio.run(test())


_keys = st.sampled_from([0, 1, 2])
_outs = st.builds(
    lambda action, key, new_key, kind, aptpl: out_command(action, key, new_key, type=kind, aptpl=aptpl),
    st.sampled_from([each for each in OutServiceAction if each != OutServiceAction.REGISTER_AND_MOVE]),
    _keys,
    _keys,
    st.sampled_from(ReservationType),
    st.booleans(),
)
_ends = st.sampled_from([None, None, None, AnswerLost("memory", "gone"), PathError("memory", "away"), BUSY])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(_outs, _ends), min_size=1, max_size=10))
def test_after_a_kill_at_any_time_the_record_is_true_or_says_that_it_may_not_be(
    commands: list[tuple[Command, Response | PathError | None]],
) -> None:
    async def test() -> None:
        rig = Rig()

        def check() -> None:
            last = rig.records[-1] if rig.records else settled(Tracked())
            assert last.stale or last.tracked == rig.truth
            if last.stale:
                assert rig.truth.key in (0, last.tracked.key, *last.candidates)

        rig.path.after = check
        for command, end in commands:
            rig.path.script = [end]
            await rig.tell(command)
            check()
            await rig.settle()
            check()
        reloaded = Rig().device.block
        reloaded.restore(rig.records[-1])
        assert reloaded.state() == rig.device.block.state()

    asyncio.run(test())


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

    def test_behind_multipath_a_command_of_the_guest_moves_the_generation_by_more(self) -> None:
        async def test() -> None:
            rig = Rig()
            rig.path.nexuses = 2
            await rig.must(in_command(InServiceAction.READ_KEYS))
            await rig.must(out_command(REGISTER, 0, 5))
            rig.third(out_command(REGISTER, 0, 5))  # the other path
            await rig.must(in_command(InServiceAction.READ_KEYS))
            assert not rig.device.block.stale

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


class TestTurns:
    def test_a_command_that_hangs_is_not_overtaken(self) -> None:
        async def test() -> None:
            rig = Rig()
            hold = asyncio.Event()
            rig.path.script = [hold]
            with pytest.raises(PathError, match="in doubt"):
                await rig.device.run(_one(out_command(REGISTER, 0, 5)), 0.05)
            with pytest.raises(PathError, match=r"no answer within 0\.05 s"):
                await rig.device.run(_one(READY), 0.05)
            reserve = asyncio.ensure_future(rig.tell(out_command(REGISTER, 5, 6)))
            await rig.must(READ)  # data do not wait
            assert rig.path.seen == [out_command(REGISTER, 0, 5), READ]
            hold.set()
            assert await rig.device.run(_one(READY), 1) == Response(Status.GOOD)
            assert (await reserve).good
            assert rig.truth == Tracked(6)

        asyncio.run(test())

    def test_nor_by_the_guest_that_had_waited_for_its_turn(self) -> None:
        async def test() -> None:
            rig = Rig()
            hold = asyncio.Event()
            # the guest comes between two tries, when nothing is under way
            rig.path.script = [PathError("memory", "away"), hold]
            own = asyncio.ensure_future(rig.device.run(_one(out_command(REGISTER, 0, 5)), 0.3))
            await rig.settle()
            reserve = asyncio.ensure_future(rig.tell(out_command(REGISTER, 5, 6)))
            with pytest.raises(PathError, match="in doubt"):
                await own
            await rig.settle()
            assert rig.path.outs() == [out_command(REGISTER, 0, 5)] * 2
            hold.set()
            assert (await reserve).good

        asyncio.run(test())

    def test_the_agent_waits_for_the_guest_within_its_limit(self) -> None:
        async def test() -> None:
            rig = Rig()
            hold = asyncio.Event()
            rig.path.script = [hold]
            reserve = asyncio.ensure_future(rig.tell(out_command(REGISTER, 0, 5)))
            await rig.settle()
            with pytest.raises(PathError, match=r"no turn within 0\.05 s .* nothing was sent"):
                await rig.device.run(_one(READY), 0.05)
            hold.set()
            assert (await rig.device.run(_one(READY), 1)).good
            assert (await reserve).good

        asyncio.run(test())

    def test_the_guest_waits_for_the_agent_and_then_for_the_gate(self) -> None:
        async def test() -> None:
            rig = Rig()
            hold = asyncio.Event()
            rig.path.script = [hold]
            own = asyncio.ensure_future(rig.device.run(_one(READY), 5))
            await rig.settle()
            reserve = asyncio.ensure_future(rig.tell(out_command(REGISTER, 0, 5)))
            await rig.settle()
            rig.device.move_gate(Gate.LEAVING)
            assert await rig.device.drain(0.05)
            hold.set()
            await own
            await rig.settle()
            assert rig.path.outs() == []
            assert rig.device.held == 1
            rig.device.move_gate(Gate.DEPARTED)
            assert await reserve == REFUSAL
            assert rig.path.outs() == []

        asyncio.run(test())

    def test_a_command_that_is_aborted_before_its_turn_is_never_sent(self) -> None:
        async def test() -> None:
            rig = Rig()
            hold = asyncio.Event()
            rig.path.script = [hold]
            own = asyncio.ensure_future(rig.device.run(_one(READY), 5))
            await rig.settle()
            reserve = asyncio.ensure_future(rig.tell(out_command(REGISTER, 0, 5)))
            await rig.settle()
            reserve.cancel()
            hold.set()
            await own
            await rig.settle()
            assert rig.path.outs() == []
            await rig.must(out_command(REGISTER, 0, 6))

        asyncio.run(test())

    def test_one_that_is_aborted_under_way_is_seen_to_its_end(self) -> None:
        async def test() -> None:
            rig = Rig()
            hold = asyncio.Event()
            rig.path.script = [hold]
            reserve = asyncio.ensure_future(rig.tell(out_command(REGISTER, 0, 5)))
            await rig.settle()
            reserve.cancel()
            await rig.settle()
            hold.set()
            assert await rig.device.drain(1)
            assert rig.records[-1] == settled(Tracked(5))

        asyncio.run(test())


class TestOwnCommands:
    def test_unit_attentions_that_they_meet_are_the_guests(self) -> None:
        async def test() -> None:
            rig = Rig()
            rig.path.script = [ATTENTION]
            assert await rig.device.run(_one(READY), 1) == ATTENTION
            assert await rig.tell(READ) == ATTENTION
            await rig.must(READ)

        asyncio.run(test())

    def test_but_not_the_next_guests(self) -> None:
        async def test() -> None:
            rig = Rig()
            rig.path.script = [ATTENTION]
            await rig.device.run(_one(READY), 1)
            rig.device.move_gate(Gate.DEPARTED)
            rig.device.move_gate(Gate.RUNNING)
            await rig.must(READ)

        asyncio.run(test())

    def test_their_registrations_are_no_sign_of_others_at_work(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            await rig.must(in_command(InServiceAction.READ_KEYS))
            await rig.device.run(_one(out_command(REGISTER, 5, 5)), 1)
            await rig.must(in_command(InServiceAction.READ_KEYS))
            assert not rig.device.block.stale

        asyncio.run(test())

    def test_a_lun_that_became_another(self) -> None:
        async def test() -> None:
            rig = Rig()
            first = await rig.device.learn_designator(1)
            assert rig.device.designator == first
            assert await rig.device.learn_designator(1) == first

        asyncio.run(test())

    def test_close_ends_what_goes_on_in_the_background(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            released = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_RELEASED)
            rig.path.script = [released, asyncio.Event()]
            await rig.tell(READ)
            await rig.settle()
            await rig.device.close()
            assert rig.path.closed
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(test())


def test_changes_of_the_guest_are_counted_and_told() -> None:
    async def test() -> None:
        rig = Rig()
        told: list[int] = []
        rig.device.on_guest_change = lambda device: told.append(device.changes)
        await rig.must(out_command(REGISTER, 0, 5))
        assert not (await rig.tell(out_command(REGISTER, 9, 6))).good
        await rig.must(out_command(RESERVE, 5, type=WERO))
        rig.path.script = [AnswerLost("memory", "gone")]
        await rig.tell(out_command(OutServiceAction.RELEASE, 5, type=WERO))
        assert told == [1, 2, 3]
        await rig.settle()  # the answer is looked for, and was a change
        await rig.device.reread(1)
        assert told == [1, 2, 3, 4]

    asyncio.run(test())


def _one(command: Command) -> Steps[Response]:
    return (yield command)
