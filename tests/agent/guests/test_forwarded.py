"""A command that is passed on without a task: the same answers, records and states as by a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.agent.guests.forwarded import ForwardedCommand
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState
from holdover.paths.submitted import can_forward
from holdover.scsi.cdbs.cdb import Release, Reserve, Write
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, Awaited, PathError
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status
from tests.agent.device_rig import QEMU, THIRD, Rig, ScriptedPath
from tests.agent.guests.device_states import READ, READY, REGISTER, RESERVE, WERO

WRITE = Command(Write(0, 1, 10).encode(), bytes(512))
PREEMPTED = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_PREEMPTED)
GOOD = Response(Status.GOOD)


class ForwardingPath(ScriptedPath):
    """A scripted path that can also be told to tell the end of a command by a call."""

    def forward(self, command: Command, awaited: Awaited) -> Callable[[], Awaitable[None]]:
        async def carry_out() -> None:
            try:
                response = await self.execute(command)
            except PathError as error:
                awaited.failed(error)
            else:
                awaited.answered(response)

        task = asyncio.ensure_future(carry_out())

        async def abort() -> None:
            task.cancel()
            await asyncio.wait([task])

        return abort

    def explain(self, error: Exception) -> PathError:
        assert isinstance(error, PathError)
        return error


class ForwardingRig(Rig):
    """A device that passes commands on where it can."""

    def make_path(self) -> ScriptedPath:
        return ForwardingPath(self.unit)

    def begin(self, command: Command) -> tuple[ForwardedCommand | None, list[Response]]:
        answers: list[Response] = []
        return self.device.forward(QEMU, command, answers.append), answers

    async def tell(self, command: Command) -> Response:
        answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        if self.device.forward(QEMU, command, answered.set_result) is None:
            return await super().tell(command)
        return await answered


_ATTENTIONS = [
    AdditionalSense.RESERVATIONS_PREEMPTED,
    AdditionalSense.REGISTRATIONS_PREEMPTED,
    AdditionalSense.RESERVATIONS_RELEASED,
    AdditionalSense.CAPACITY_DATA_HAS_CHANGED,
]
_commands = st.sampled_from(
    [
        READ,
        WRITE,
        READY,
        Command(Reserve(6).encode()),
        Command(Release(6).encode()),
        out_command(REGISTER, 0, 5),
        out_command(RESERVE, 5, 0, type=WERO),
        in_command(InServiceAction.READ_KEYS),
        in_command(InServiceAction.READ_RESERVATION),
    ]
)
_ends = st.one_of(
    st.none(),
    st.sampled_from([AnswerLost("memory", "gone"), PathError("memory", "away"), Response(Status.BUSY)]),
    st.sampled_from(_ATTENTIONS).map(lambda each: check_condition(SenseKey.UNIT_ATTENTION, each)),
)
_thirds = st.sampled_from(
    [
        None,
        None,
        out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, 9),
        out_command(OutServiceAction.PREEMPT, 9, 5, type=WERO),
        out_command(OutServiceAction.CLEAR, 9, 0),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(st.tuples(_commands, _ends, _thirds), min_size=1, max_size=12))
def test_the_guest_and_the_record_see_no_difference(
    migrate_pr: bool, story: list[tuple[Command, Response | PathError | None, Command | None]]
) -> None:
    async def told(rig: Rig) -> list[tuple[Response, BlockState]]:
        seen = []
        for command, end, third in story:
            if third is not None:
                rig.unit.execute(THIRD, third)
            rig.path.script = [end]
            response = await rig.tell(command)
            assert rig.device.in_flight == 0
            seen.append((response, rig.device.block.state()))
            await rig.settle()
            rig.path.script = []
        return seen

    async def test() -> None:
        by_task, forwarded = Rig(migrate_pr=migrate_pr), ForwardingRig(migrate_pr=migrate_pr)
        is_told_by_calls = can_forward(forwarded.path)
        assert is_told_by_calls
        assert await told(by_task) == await told(forwarded)
        assert by_task.path.seen == forwarded.path.seen
        assert by_task.records == forwarded.records
        assert by_task.truth == forwarded.truth

    asyncio.run(test())


def test_what_makes_the_picture_doubtful_is_on_record_before_the_guest_is_told() -> None:
    async def test() -> None:
        rig = ForwardingRig()
        await rig.must(out_command(REGISTER, 0, 5))
        rig.path.script = [PREEMPTED]
        stale: list[bool] = []
        forwarded = rig.device.forward(QEMU, READ, lambda _: stale.append(rig.records[-1].stale))
        assert forwarded is not None
        await rig.settle()
        assert stale == [True]

    asyncio.run(test())


@pytest.mark.parametrize("gate", [each for each in Gate if each is not Gate.RUNNING])
def test_none_is_passed_on_behind_a_gate_that_is_not_open(gate: Gate) -> None:
    async def test() -> None:
        rig = ForwardingRig(gate=gate)
        assert [rig.begin(each)[0] for each in (READ, WRITE, READY)] == [None] * 3
        assert (rig.path.seen, rig.device.in_flight) == ([], 0)

    asyncio.run(test())


def test_nor_before_a_unit_attention_that_the_guest_has_not_got() -> None:
    async def test() -> None:
        rig = ForwardingRig()
        rig.device.block.owe(PREEMPTED)
        assert rig.begin(READ)[0] is None
        assert await rig.tell(READ) == PREEMPTED
        assert rig.begin(READ)[0] is not None
        await rig.settle()

    asyncio.run(test())


def test_nor_while_a_session_has_reserved() -> None:
    async def test() -> None:
        rig = ForwardingRig()
        await rig.must(Command(Reserve(6).encode()))
        assert rig.begin(READ)[0] is None
        await rig.must(Command(Release(6).encode()))
        assert rig.begin(READ)[0] is not None
        await rig.settle()

    asyncio.run(test())


def test_a_drain_waits_for_what_was_passed_on() -> None:
    async def test() -> None:
        rig = ForwardingRig()
        hold = asyncio.Event()
        rig.path.script = [hold]
        _, answers = rig.begin(WRITE)
        await rig.settle()
        rig.device.move_gate(Gate.LEAVING)
        assert not await rig.device.drain(0.02)
        draining = asyncio.ensure_future(rig.device.drain(600))
        await rig.settle()
        hold.set()
        assert await draining
        assert [each.good for each in answers] == [True]

    asyncio.run(test())


@pytest.mark.parametrize("late", [False, True])
def test_an_aborted_command_has_no_answer_and_is_not_in_flight(late: bool) -> None:
    async def test() -> None:
        rig = ForwardingRig()
        rig.path.script = [asyncio.Event()]
        forwarded, answers = rig.begin(WRITE)
        assert forwarded is not None
        if late:
            await rig.settle()
        assert rig.device.in_flight == 1
        await forwarded.abort()
        assert (answers, rig.device.in_flight) == ([], 0)
        await forwarded.abort()
        assert rig.device.in_flight == 0

    asyncio.run(test())


def test_an_abort_waits_for_the_record() -> None:
    async def test() -> None:
        rig = ForwardingRig()
        await rig.must(out_command(REGISTER, 0, 5))
        recorded = asyncio.Event()

        async def record(_: object) -> None:
            await recorded.wait()

        rig.device.on_change = record
        rig.path.script = [PREEMPTED]
        forwarded, answers = rig.begin(READ)
        assert forwarded is not None
        await rig.settle()
        aborting = asyncio.ensure_future(forwarded.abort())
        await rig.settle()
        assert (aborting.done(), rig.device.in_flight) == (False, 1)
        recorded.set()
        await aborting
        assert (answers, rig.device.in_flight) == ([], 0)
        await rig.settle()

    asyncio.run(test())
