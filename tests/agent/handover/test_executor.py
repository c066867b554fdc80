"""What both sides of a handover share: the work on the LUNs, and what it has not seen."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec
import pytest

from holdover.agent.guests.device import GuestDevice
from holdover.agent.handover.executor import HandoverExecutor
from holdover.api.client import AgentRefused
from holdover.api.documents import PeerMessage
from holdover.config.agent_file import Limits
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState
from holdover.handover.effects import Effects, WorkOrder
from holdover.handover.lun_work.work import Work
from holdover.handover.protocol import Answer, Answered, HandoverEvent
from holdover.handover.states import MessageKind
from holdover.journal.records import DeviceRecord, HandoverRecord, Record
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from tests.agent.handover.moves import WERO, reserved
from tests.agent.handover.test_trouble import until
from tests.agent.hosts import GUEST, KEY, READ, WRITE, Fate, San, san

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=60)
RESERVE = (OperationCode.PERSISTENT_RESERVE_IN, OperationCode.PERSISTENT_RESERVE_OUT)
PREEMPTED = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.REGISTRATIONS_PREEMPTED)


def recorded(set_up: San, host: str, monkeypatch: pytest.MonkeyPatch) -> list[BlockState]:
    """What is put on record of the guest's device from now on."""
    journal = set_up.journals[host]
    put = journal.put
    seen: list[BlockState] = []

    async def noticed(*records: Record) -> None:
        bodies = [each.body for each in records if isinstance(each, DeviceRecord)]
        seen.extend(msgspec.json.decode(body, type=BlockState) for body in bodies)
        await put(*records)

    monkeypatch.setattr(journal, "put", noticed)
    return seen


async def certain(device: GuestDevice) -> None:
    """Wait until what is tracked was read again."""
    if device.block.stale:
        await asyncio.sleep(0.01)
        await certain(device)


@pytest.mark.parametrize("host", ["host-a", "host-b"])
def test_what_others_did_during_the_last_work_is_asked_when_the_guest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """The last work of rolling back on the source, and of committing on the destination."""

    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            if host == "host-a":
                await client.commit(GUEST, "h1")
            seen = recorded(set_up, host, monkeypatch)
            device = set_up.hosts[host].guests[GUEST].devices[0]
            last = {"host-a": "resuming", "host-b": "preempting"}[host]
            met = False

            async def hook(name: str, command: Command) -> Fate:
                nonlocal met
                steps = set_up.journals[host].steps("h1")
                if name == host and command.opcode in RESERVE and not met:
                    met = steps[-1].state == last
                    if met:
                        device.block.observe_own_response(
                            PREEMPTED
                        )  # as the answer to a command of this work
                return Fate.ANSWERED

            set_up.hook(hook)
            state = await (client.roll_back if host == "host-a" else client.commit)(GUEST, "h1")
            assert met
            assert state.state == {"host-a": "stayed", "host-b": "committed"}[host]
            assert any(each.stale and each.gate is Gate.RUNNING for each in seen)
            await certain(device)
            assert (device.tracked.key, device.tracked.type) == (KEY, WERO)

    asyncio.run(test())


def test_isolating_begins_when_the_guests_commands_have_ended(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            guest = set_up.guest_on("host-a")
            await guest.must(READ)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await set_up.stop("host-b")
            with pytest.raises(AgentRefused):
                await client.roll_back(GUEST, "h1")  # it goes on here, with what is left there
            at_the_lun, goes_on = asyncio.Event(), asyncio.Event()

            async def hook(_name: str, command: Command) -> Fate:
                if command.opcode == WRITE.opcode:
                    at_the_lun.set()
                    await goes_on.wait()
                return Fate.ANSWERED

            set_up.hook(hook)
            writing = asyncio.create_task(guest.tell(WRITE))
            await at_the_lun.wait()
            before = set_up.luns[0].state
            with pytest.raises(AgentRefused, match="1 commands are still in flight"):
                await client.roll_back(GUEST, "h1", alone=True)
            assert set_up.luns[0].state == before
            goes_on.set()
            assert (await writing).good
            assert (await client.roll_back(GUEST, "h1", alone=True)).state == "stayed"
            assert await set_up.registrants() == {"host-a": (KEY, True)}

    asyncio.run(test())


@pytest.mark.parametrize("in_flight", [False, True])
def test_work_without_commands_takes_no_turn_of_the_loop_unless_the_guests_commands_are_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_flight: bool
) -> None:
    """The guest stands still for each turn."""

    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            device = set_up.hosts["host-a"].guests[GUEST].devices[0]
            in_turns: list[Work] = []
            work = HandoverExecutor.work

            async def noticed(
                executor: HandoverExecutor, ordered: WorkOrder, effects: Effects
            ) -> HandoverEvent:
                if executor.guest.devices[0] is device:
                    in_turns.append(ordered.work)
                return await work(executor, ordered, effects)

            monkeypatch.setattr(HandoverExecutor, "work", noticed)
            if in_flight:
                device.in_flight_here.begin()
            committing = asyncio.ensure_future(client.commit(GUEST, "h1"))
            if in_flight:
                await until(set_up, "host-a", lambda _: device.block.gate is Gate.LEAVING)
                await asyncio.sleep(0.05)
                assert not committing.done()
                device.in_flight_here.end()
            state = await committing
            assert state.state == "committed"
            assert in_turns == ([Work.DRAIN] if in_flight else [])
            handover = set_up.hosts["host-a"].handovers.state(GUEST)
            assert handover is not None
            assert {"drain", "work drain", "work give"} <= {span.name for span in handover.spans}

    asyncio.run(test())


def test_a_record_is_tried_again_after_an_error_that_nobody_has_foreseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            journal, put = set_up.journals["host-a"], set_up.journals["host-a"].put

            async def fails(*records: Record) -> None:
                if any(isinstance(each, HandoverRecord) and each.state == "stayed" for each in records):
                    monkeypatch.setattr(journal, "put", put)
                    raise MemoryError
                await put(*records)

            monkeypatch.setattr(journal, "put", fails)
            with contextlib.suppress(AgentRefused):
                await client.roll_back(GUEST, "h1")
            await until(set_up, "host-a", lambda state: state.state == "stayed")

    asyncio.run(test())


def test_what_a_device_puts_on_record_beside_a_handover_does_not_open_its_gate_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate moves when the record of the handover is on disk; until then the device has the one before."""

    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.commit(GUEST, "h1")
            device = set_up.hosts["host-a"].guests[GUEST].devices[0]
            journal, put = set_up.journals["host-a"], set_up.journals["host-a"].put
            beside: list[asyncio.Task[None]] = []

            async def slow(*records: Record) -> None:
                moves = [each for each in records if isinstance(each, HandoverRecord)]
                if moves and not beside:
                    beside.append(asyncio.ensure_future(device.has_become_stale()))
                await put(*records)
                if moves:
                    await asyncio.wait(beside)

            before = device.block.gate
            monkeypatch.setattr(journal, "put", slow)
            await client.finish(GUEST, "h1")
            assert beside
            assert before is not device.block.gate
            (on_record,) = journal.load().devices
            assert msgspec.json.decode(on_record.body, type=BlockState).gate is Gate.DEPARTED
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert (await set_up.gates())["host-a"] == "departed"

    asyncio.run(test())


def test_what_is_in_doubt_on_a_lun_that_no_work_has_asked_stays_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the guest is not registered, the work of a roll back sends nothing."""

    async def test() -> None:
        async with san(tmp_path, luns=2, limits=QUICK) as set_up:
            await set_up.guest_on("host-a", 1).register(aptpl=True)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            device = set_up.hosts["host-a"].guests[GUEST].devices[0]
            read_again: list[bool] = []
            monkeypatch.setattr(device, "read_again", lambda: read_again.append(True))
            there = set_up.hosts["host-b"].handovers
            receive = there.receive

            async def refuses(message: PeerMessage, sender: str) -> Answer:
                if message.message.kind is not MessageKind.COMMIT:
                    return await receive(message, sender)
                device.block.mark_stale()
                return Answer(Answered.REFUSED, message.message.number, problem="a test refuses it")

            monkeypatch.setattr(there, "receive", refuses)
            seen = recorded(set_up, "host-a", monkeypatch)
            with pytest.raises(AgentRefused, match="a test refuses it"):
                await client.commit(GUEST, "h1")
            await until(set_up, "host-a", lambda state: not state.open)
            assert device.block.stale
            assert read_again
            assert any(each.stale and each.gate is Gate.RUNNING for each in seen)

    asyncio.run(test())


def test_the_end_of_a_handover_puts_each_gate_on_record(tmp_path: Path) -> None:
    """A device may have recorded the gate that it had in an earlier state of the handover."""

    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            device = set_up.hosts["host-a"].guests[GUEST].devices[0]
            device.move_gate(Gate.LEAVING)
            await device.put_on_record()
            device.move_gate(Gate.RUNNING)
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            (record,) = set_up.journals["host-a"].load().devices
            assert msgspec.json.decode(record.body, type=BlockState).gate is Gate.RUNNING

    asyncio.run(test())


def test_a_handover_goes_on_though_its_lun_cannot_be_asked_for_a_reason_unforeseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.commit(GUEST, "h1")
            await set_up.stop("host-a")
            learn = GuestDevice.learn_designator

            async def fails(_self: GuestDevice, _limit: float) -> None:
                monkeypatch.setattr(GuestDevice, "learn_designator", learn)
                raise MemoryError

            monkeypatch.setattr(GuestDevice, "learn_designator", fails)
            await set_up.start("host-a")
            assert (await client.finish(GUEST, "h1")).state == "gone"

    asyncio.run(test())
