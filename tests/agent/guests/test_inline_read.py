"""PERSISTENT RESERVE IN beside the event loop: when it may be, what it leaves, and who waits for it."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from holdover.agent.attach import front_end as front_end_module
from holdover.agent.attach.front_end import HOST_NEXUS, HelperFrontEnd, ThreadFrontEnd
from holdover.agent.attach.processes.process import Process, Way
from holdover.agent.guests.inline_read import InlineReads
from holdover.guest.added import Added
from holdover.guest.gate import Gate
from holdover.helper.connection import Peer
from holdover.helper.on_loop import OnLoop
from holdover.paths.sgio import OpenDevice
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, decode_sense, is_unit_attention
from holdover.scsi.status import Status
from tests.agent.device_rig import GUEST, Rig, ScriptedPath

PEER = Peer(1, 2, 3, since=10.0)
READ_KEYS = in_command(InServiceAction.READ_KEYS, 64)
CAPABILITIES = in_command(InServiceAction.REPORT_CAPABILITIES, 8)
LUN = Designator.parse("naa.6001405aaaaa")
ATTENTION = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.REGISTRATIONS_PREEMPTED)
IGNORE = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY


def disk(number: int, kind: int = stat.S_IFBLK) -> OpenDevice:
    """/dev/sda and what follows, as fstat(2) shows them."""
    found = os.stat_result((kind | 0o660, *[0] * 9), {"st_rdev": os.makedev(8, 16 * number)})
    return OpenDevice(0, found)


@dataclass
class DiskPath(ScriptedPath):
    """A path that has /dev/sda open."""

    open: set[tuple[int, int]] = field(default_factory=lambda: {disk(0).number})

    def has_open(self, number: tuple[int, int]) -> bool:
        return number in self.open


class FrontEnd(HelperFrontEnd):
    """A front end that knows the guest, of whom the loop has left word."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.by_loop = 0
        path = rig.path
        assert isinstance(path, DiskPath)
        self.its_way: Way | None = Way("db1", rig.device, LUN, path)

    def way(self, peer: Peer, disk: OpenDevice) -> Way | None:
        return self.its_way

    async def handle(self, peer: Peer, disk: OpenDevice, command: Command) -> Response:
        self.by_loop += 1
        return await self.rig.device.execute(HOST_NEXUS, command)


class Place:
    """A guest's device, and a front end to it for threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, migrate_pr: bool = True) -> None:
        self.rig = Rig(migrate_pr=migrate_pr)
        self.path = self.rig.path = DiskPath(self.rig.unit)
        self.rig.device._path = self.path
        self.front_end = FrontEnd(self.rig)
        self.threads_front_end = ThreadFrontEnd(self.front_end, OnLoop(self.front_end.handle))
        self.answer: Callable[[Command], Response] = lambda command: self.rig.unit.execute(GUEST, command)
        self.inline = 0
        monkeypatch.setattr(front_end_module, "carry_out", self.carry_out)

    def carry_out(self, device: OpenDevice, command: Command, name: str, timeout: float) -> Response:
        self.inline += 1
        return self.answer(command)

    async def tell(self, command: Command, device: OpenDevice | None = None) -> Response:
        given = await asyncio.to_thread(self.threads_front_end.handle, PEER, device or disk(0), command)
        return await asyncio.wrap_future(given) if isinstance(given, Future) else given

    def went(self) -> tuple[int, int]:
        """How many commands went beside the loop, and by it."""
        counts = self.inline, self.front_end.by_loop
        self.inline = self.front_end.by_loop = 0
        return counts


def test_a_read_goes_inline_and_the_loop_hears_of_it_when_it_tells_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        here = Place(monkeypatch)
        assert (await here.tell(out_command(IGNORE, 0, 5))).good
        assert here.went() == (0, 1)
        for _ in range(3):
            assert ReadKeys.decode((await here.tell(READ_KEYS)).data_in).keys == (5,)
            assert not (await here.tell(CAPABILITIES)).data_in[2] & 0x0C
            # there was nothing to compare the first PRGENERATION with
            await here.rig.settle()
        assert here.went() == (6, 0)
        assert here.rig.device.block.state().tracked == Tracked(5)
        assert not here.rig.device.block.stale
        # another node has been there
        here.rig.third(out_command(OutServiceAction.REGISTER, 0, 9))
        before = len(here.rig.records)
        assert ReadKeys.decode((await here.tell(READ_KEYS)).data_in).keys == (5, 9)
        assert here.rig.records[before].stale
        await here.rig.settle()
        assert not here.rig.device.block.stale

    asyncio.run(test())


def test_a_unit_attention_is_on_record_before_the_guest_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        here = Place(monkeypatch)
        assert (await here.tell(out_command(IGNORE, 0, 5))).good
        before = len(here.rig.records)
        here.answer = lambda _: ATTENTION
        assert is_unit_attention(await here.tell(READ_KEYS))
        assert here.went() == (1, 1)
        assert here.rig.records[before].stale

    asyncio.run(test())


def test_what_a_handover_has_added_meanwhile_is_left_out_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        here = Place(monkeypatch)
        assert (await here.tell(out_command(IGNORE, 0, 5))).good
        here.rig.third(out_command(OutServiceAction.REGISTER, 0, 5))  # the destination
        block = here.rig.device.block

        def read(command: Command) -> Response:
            block.added = Added((5,))
            return here.rig.unit.execute(GUEST, command)

        here.answer = read
        here.went()
        for inline in (1, 0):
            assert ReadKeys.decode((await here.tell(READ_KEYS)).data_in).keys == (5,)
            assert here.went() == (inline, 1)
        block.added = None
        here.answer = lambda command: here.rig.unit.execute(GUEST, command)
        await here.rig.settle()
        assert ReadKeys.decode((await here.tell(READ_KEYS)).data_in).keys == (5, 5)

    asyncio.run(test())


def test_what_the_guest_is_to_be_told_first_comes_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        here = Place(monkeypatch)
        here.rig.device.block.observe_own_response(ATTENTION)
        assert is_unit_attention(await here.tell(READ_KEYS))
        assert here.went() == (0, 1)
        assert (await here.tell(READ_KEYS)).good
        assert here.went() == (1, 0)

    asyncio.run(test())


@pytest.mark.parametrize("change", ["no word", "closed", "not sent", "another's command"])
def test_what_cannot_go_inline_goes_by_the_loop(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    def not_sent(_: Command) -> Response:
        raise PathError("disk", "must not be")

    async def test() -> None:
        here = Place(monkeypatch)
        command = READ_KEYS
        if change == "no word":
            here.front_end.its_way = None
        elif change == "closed":
            here.path.open.clear()
        elif change == "not sent":
            here.answer = not_sent
        else:
            command = out_command(IGNORE, 0, 5)
        assert (await here.tell(command)).good
        assert here.front_end.by_loop == 1
        assert here.rig.device.inline_reads.under_way == 0

    asyncio.run(test())


def test_a_read_without_an_answer_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: Command) -> Response:
        raise AnswerLost("disk", "no answer")

    async def test() -> None:
        here = Place(monkeypatch)
        here.answer = lost
        response = await here.tell(READ_KEYS)
        assert decode_sense(response.sense).key is SenseKey.ABORTED_COMMAND
        assert here.went() == (1, 0)
        assert here.rig.device.in_flight == 0

    asyncio.run(test())


def test_without_migrate_pr_nothing_is_masked_or_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        here = Place(monkeypatch, migrate_pr=False)
        here.answer = lambda _: ATTENTION
        assert await here.tell(READ_KEYS) == ATTENTION
        assert here.went() == (1, 0)
        assert not here.rig.device.block.stale

    asyncio.run(test())


def test_a_guest_that_leaves_waits_for_what_is_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: Command) -> Response:
        begun.set()
        assert go_on.wait(600)
        return Response(Status.GOOD, ReadKeys(0, ()).encode())

    async def test() -> None:
        here = Place(monkeypatch)
        here.answer = wait
        device = here.rig.device
        first = asyncio.ensure_future(here.tell(READ_KEYS))
        assert await asyncio.to_thread(begun.wait, 20)
        device.move_gate(Gate.LEAVING)
        assert device.in_flight == 1
        assert not await device.drain(0.01)
        drained = asyncio.ensure_future(device.drain(20))
        second = asyncio.ensure_future(here.tell(READ_KEYS))
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if device.held:
                break
        assert not drained.done()
        go_on.set()
        assert await drained
        assert (await first).good
        assert here.inline == 1
        device.move_gate(Gate.RUNNING)
        assert (await second).good

    asyncio.run(test())


def test_no_command_is_at_the_lun_while_the_gate_is_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads read, other nodes register, and the gate is shut and opened at any time."""
    rng = random.Random(7)
    shut, stop = threading.Event(), threading.Event()
    at_lun = threading.Lock()
    wrong: list[str] = []

    async def test() -> None:
        here = Place(monkeypatch)
        device = here.rig.device
        await here.rig.must(out_command(IGNORE, 0, 5))

        def read(command: Command) -> Response:
            if shut.is_set():
                wrong.append("began")
            stop.wait(rng.random() * 0.0005)
            with at_lun:
                response = here.rig.unit.execute(GUEST, command)
            if shut.is_set():
                wrong.append("ended")
            return response

        def client() -> int:
            served = 0
            while not stop.is_set():
                given = here.threads_front_end.handle(PEER, disk(0), READ_KEYS)
                response = given.result() if isinstance(given, Future) else given
                served += response.good or is_unit_attention(response)
            return served

        here.answer = read
        clients = [asyncio.ensure_future(asyncio.to_thread(client)) for _ in range(4)]
        try:
            for number in range(100):
                await asyncio.sleep(rng.random() * 0.002)
                device.move_gate(Gate.LEAVING)
                assert await device.drain(20)
                shut.set()
                if number % 5 == 0:
                    with at_lun:
                        here.rig.third(out_command(IGNORE, 0, number + 1))
                await asyncio.sleep(rng.random() * 0.002)
                assert device.in_flight == 0
                shut.clear()
                device.move_gate(Gate.RUNNING)
        finally:
            stop.set()
            device.move_gate(Gate.RUNNING)
        assert min(await asyncio.gather(*clients)) > 0
        assert here.inline > 50
        assert wrong == []
        await here.rig.settle()
        assert device.tracked == here.rig.truth

    asyncio.run(test())


class TestWay:
    """Which command the loop has left word for."""

    @pytest.fixture
    def front_end(self, monkeypatch: pytest.MonkeyPatch) -> HelperFrontEnd:
        rig = Rig()
        rig.device._designator = LUN
        process = Process.__new__(Process)
        process.started, process.seen = 5.0, 10.0
        process.ways = {disk(0).number: Way("db1", rig.device, LUN, DiskPath(rig.unit))}

        class Known:
            def process_of(self, peer: Peer) -> Process | None:
                inside = process.started <= peer.since <= process.seen
                return process if peer.pid == 1 and inside else None

        front_end = HelperFrontEnd.__new__(HelperFrontEnd)
        monkeypatch.setattr(front_end, "_attachments", Known(), raising=False)
        monkeypatch.setattr(front_end, "_own", None, raising=False)
        return front_end

    def test_it_is_for_a_disk_of_the_process(self, front_end: HelperFrontEnd) -> None:
        way = front_end.way(PEER, disk(0))
        assert way is not None
        assert way.guest == "db1"
        assert front_end.way(PEER, disk(1)) is None
        assert front_end.way(PEER, disk(0, stat.S_IFCHR)) is None
        assert front_end.way(Peer(2, 2, 3, since=10.0), disk(0)) is None

    def test_not_by_another_guests_socket(
        self, front_end: HelperFrontEnd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(front_end, "_own", "db2")
        assert front_end.way(PEER, disk(0)) is None

    def test_not_when_the_lun_has_become_another(self, front_end: HelperFrontEnd) -> None:
        way = front_end.way(PEER, disk(0))
        assert way is not None
        way.device.recall_designator(Designator.parse("naa.6001405bbbbb"))
        assert front_end.way(PEER, disk(0)) is None


def test_who_waits_is_told_once_all_have_left() -> None:
    async def test() -> None:
        inline = InlineReads()
        await inline.ended()
        inline.enter()
        inline.enter()
        waiting = asyncio.ensure_future(inline.ended())
        await asyncio.to_thread(inline.leave)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        given_up = asyncio.ensure_future(inline.ended())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.to_thread(inline.leave)
        await asyncio.wait_for(waiting, 300)
        assert inline.under_way == 0

    asyncio.run(test())


def test_who_leaves_when_the_loop_has_gone_does_not_mind() -> None:
    inline = InlineReads()
    inline.enter()

    async def test() -> None:
        waiting = asyncio.ensure_future(inline.ended())
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(test())
    inline.leave()
    assert inline.under_way == 0
