"""A guest's device: what is on record, what is read again, who has to wait for whom."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.agent.guests.device import GuestDevice
from holdover.guest.gate import REFUSAL, Gate
from holdover.guest.scsi_block import BlockState
from holdover.reservations.own_registration import find_own_registration
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import Reserve
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, decode_sense, is_unit_attention
from holdover.scsi.status import Status
from tests.agent.device_rig import GUEST, QEMU, Rig, nexus
from tests.agent.guests.device_states import READ, READY, REGISTER, RESERVE, WERO, _one, settled, unsettled

BUSY = Response(Status.BUSY)
OTHER = nexus("other")
ATTENTION = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.CAPACITY_DATA_HAS_CHANGED)


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


class TestTurns:
    def test_a_command_that_hangs_is_not_overtaken(self) -> None:
        async def test() -> None:
            rig = Rig()
            hold = asyncio.Event()
            rig.path.script = [hold]
            with pytest.raises(PathError, match="may have been carried out or not"):
                await rig.device.run(_one(out_command(REGISTER, 0, 5)), 0.05)
            with pytest.raises(PathError, match=r"has not answered within 0\.0"):
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
            with pytest.raises(PathError, match="may have been carried out or not"):
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
            with pytest.raises(PathError, match=r"was still running after 0\.05 s; nothing was sent"):
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

    def test_questions_about_the_guest_are_no_sign_of_others_at_work(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            await rig.device.reread(1)
            outs = len(rig.path.outs())
            assert outs == 2
            for _ in range(3):
                await rig.must(in_command(InServiceAction.READ_KEYS))
                await rig.device.ascertain(
                    lambda: find_own_registration((5,)), 1, tracked_of=lambda found: found.tracked
                )
                outs += 1
                await rig.must(in_command(InServiceAction.READ_KEYS))
                await rig.settle()
                assert rig.device.block.state() == settled(Tracked(5))
                assert len(rig.path.outs()) == outs, "nothing was looked into"

        asyncio.run(test())

    def test_what_the_guest_reads_while_they_are_under_way_is_no_sign_either(self) -> None:
        async def test() -> None:
            rig = Rig()
            await rig.must(out_command(REGISTER, 0, 5))
            await rig.device.reread(1)
            hold = asyncio.Event()
            rig.path.script = [None, None, hold]
            steps = find_own_registration((5,))
            asking = asyncio.ensure_future(
                rig.device.ascertain(lambda: steps, 1, tracked_of=lambda found: found.tracked)
            )
            await rig.settle()
            await rig.must(in_command(InServiceAction.READ_KEYS))
            hold.set()
            await asking
            await rig.must(in_command(InServiceAction.READ_KEYS))
            assert rig.device.block.staleness_epoch == 0

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


def test_a_reserve_counts_if_the_guest_was_fenced_meanwhile() -> None:
    async def test() -> None:
        rig = Rig()
        await rig.must(out_command(REGISTER, 0, 5))
        rig.third(out_command(REGISTER, 0, 7))
        arrives = asyncio.Event()
        rig.path.script = [arrives, arrives]
        first = asyncio.ensure_future(rig.tell(READY))
        second = asyncio.ensure_future(rig.tell(Command(Reserve(6).encode())))
        await asyncio.sleep(0)
        rig.third(out_command(OutServiceAction.CLEAR, 7))
        arrives.set()
        assert is_unit_attention(await first)
        assert (await second).good
        assert rig.unit.legacy_holder == GUEST
        assert (await rig.device.execute(OTHER, READ)).status is Status.RESERVATION_CONFLICT
        await rig.device.nexus_lost(QEMU)
        assert rig.unit.legacy_holder is None

    asyncio.run(test())


@pytest.mark.parametrize("is_fenced", [True, False])
def test_a_reserve_asks_the_lun_whether_the_guest_is_still_registered(is_fenced: bool) -> None:
    """The unit attention that the guest was fenced was in an answer that is lost."""

    async def test() -> None:
        rig = Rig()
        await rig.must(out_command(REGISTER, 0, 5))
        await rig.must(out_command(RESERVE, 5, type=WERO))
        rig.third(out_command(REGISTER, 0, 7))
        if is_fenced:
            rig.third(out_command(OutServiceAction.CLEAR, 7))
        rig.path.script = [AnswerLost("memory", "gone")]
        await rig.tell(READ)
        await rig.must(Command(Reserve(6).encode()))
        other = await rig.device.execute(OTHER, READ)
        assert (other.status is Status.RESERVATION_CONFLICT) is is_fenced

    asyncio.run(test())


def test_a_reserve_that_comes_while_a_reset_frees_the_lun_is_refused() -> None:
    async def test() -> None:
        rig = Rig()
        await rig.must(Command(Reserve(6).encode()))
        arrives = asyncio.Event()
        rig.path.script = [arrives]
        resetting = asyncio.ensure_future(rig.device.reset())
        await asyncio.sleep(0)
        again = await rig.tell(Command(Reserve(6).encode()))
        arrives.set()
        await resetting
        assert again.status is Status.RESERVATION_CONFLICT
        assert rig.unit.legacy_holder is None

    asyncio.run(test())


def test_a_reset_that_fails_frees_the_lun_later() -> None:
    async def test() -> None:
        rig = Rig()
        await rig.must(Command(Reserve(6).encode()))
        rig.path.script = [PathError("memory", "away")] * 100
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("holdover.agent.guests.lun_nexus._FREE_SECONDS", 0.01)
            patch.setattr("holdover.agent.guests.lun_nexus._AGAIN_SECONDS", 0.0)
            with pytest.raises(PathError):
                await rig.device.reset()
            await rig.device.nexus_lost(QEMU)
            rig.path.script.clear()
            await rig.settle()
        assert rig.unit.legacy_holder is None
        await rig.device.close()

    asyncio.run(test())
