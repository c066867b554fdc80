"""What initiators can make a target hold: data that they do not send, and data that they do not take."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.pdu import PduReader
from holdover.iscsi.requests import DataOut, LoginRequest, ScsiCommand
from holdover.iscsi.responses import LoginResponse, ReadyToTransfer
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.target import IscsiTarget
from holdover.iscsi.text import encode_text
from holdover.scsi.command import Response
from holdover.scsi.status import Status
from tests.iscsi.loopback import run
from tests.iscsi.pair import INITIATOR, TARGET
from tests.iscsi.ram import BLOCK, RamDisk, read, write
from tests.rig.processes import Rig, Target

MIB = 1 << 20
SESSIONS = 16
COMMANDS = 128
OFFERS = {
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "262144",
    "FirstBurstLength": "262144",
    "MaxBurstLength": "1048576",
    "MaxOutstandingR2T": "4",
}


class Attacker:
    """A session that sends what it likes, and reads when it likes."""

    def __init__(self, port: int, iqn: str, number: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self.reader = PduReader(1 << 20)
        self.cmd_sn = 1
        pairs = {"InitiatorName": f"{INITIATOR}{number}", "TargetName": iqn, **OFFERS}
        isid = bytes([0x80, 0, 0, 0, 0, number])
        text = encode_text(pairs.items())
        self.send(LoginRequest(0, isid, 0, 1, 3, True, text, cmd_sn=1))
        answer = next(self.answers())
        assert isinstance(answer, LoginResponse)
        assert answer.status == 0

    def send(self, pdu: LoginRequest | ScsiCommand | DataOut) -> None:
        self.socket.sendall(b"".join(pdu.encode()))

    def answers(self) -> Iterator[object]:
        while True:
            while (pdu := self.reader.next()) is not None:
                yield pdu
            data = self.socket.recv(65536)
            if not data:
                return
            self.reader.feed(data)

    def write(self, tag: int, length: int, data: bytes) -> None:
        cdb = write(0, bytes(length)).cdb.ljust(16, b"\0")
        self.send(ScsiCommand(tag, 0, cdb, length, self.cmd_sn, write=True, data=data))
        self.cmd_sn += 1

    def read(self, tag: int, length: int) -> None:
        cdb = read(0, length // BLOCK).cdb.ljust(16, b"\0")
        self.send(ScsiCommand(tag, 0, cdb, length, self.cmd_sn, read=True))
        self.cmd_sn += 1


@contextmanager
def attackers(port: int, iqn: str, count: int) -> Iterator[list[Attacker]]:
    with ExitStack() as stack:
        found = [Attacker(port, iqn, number) for number in range(count)]
        for each in found:
            stack.callback(each.socket.close)
        yield found


def peak(target: Target) -> int:
    """Bytes of memory that it has taken at most."""
    status = Path(f"/proc/{target.process.popen.pid}/status").read_text(encoding="ascii")
    (line,) = (each for each in status.splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def test_withheld_data_out_does_not_fill_the_memory(rig: Rig) -> None:
    """At 847e57f 16 sessions took 1.6 GB."""
    target = rig.target(options=["--max-memory", "64"])
    with attackers(target.port, target.iqn, SESSIONS) as sessions:
        before = peak(target)
        for session in sessions:
            for tag in range(COMMANDS):
                session.write(tag, 2 * MIB, bytes(262144))
            withhold(session)
        grown = peak(target) - before
        assert grown < 192 * MIB, f"{grown >> 20} MiB"


def withhold(session: Attacker) -> None:
    """Send all that R2Ts ask for, but for the last bytes of each."""
    session.socket.settimeout(0.5)
    try:
        for answer in session.answers():
            if isinstance(answer, ReadyToTransfer):
                most = answer.length - BLOCK
                for data_sn, at in enumerate(range(0, most, 262144)):
                    data = bytes(min(262144, most - at))
                    offset = answer.offset + at
                    session.send(DataOut(answer.task_tag, answer.target_tag, 0, data_sn, offset, data, False))
    except TimeoutError:
        pass


def test_reads_that_nobody_takes_do_not_fill_the_memory(rig: Rig) -> None:
    """At 847e57f they took 0.9 GB."""
    target = rig.target(options=["--max-memory", "64"])
    with attackers(target.port, target.iqn, SESSIONS) as sessions:
        before = peak(target)
        for session in sessions:
            for tag in range(COMMANDS):
                session.read(tag, 8 * MIB)
        most = 0
        with attackers(target.port, target.iqn, 1) as (honest,):
            for tag in range(4):
                # it may have to wait for the others to be disconnected
                honest.read(tag, BLOCK)
                answer = next(honest.answers())
                assert getattr(answer, "task_tag", None) == tag
                most = max(most, peak(target) - before)
        assert most < 192 * MIB, f"{most >> 20} MiB"


class Served:
    """A target with a small budget, in this process."""

    def __init__(self, target: IscsiTarget, port: int) -> None:
        self.target = target
        self.port = port

    async def honest(self) -> IscsiInitiator:
        return await IscsiInitiator.connect(
            "127.0.0.1", self.port, TARGET, f"{INITIATOR}.honest", bytes([0x80, 1, 1, 1, 1, 1])
        )

    async def attack(self, act: Callable[[list[Attacker]], None], count: int = 4) -> list[Attacker]:
        def begin() -> list[Attacker]:
            found = [Attacker(self.port, TARGET, number) for number in range(count)]
            act(found)
            return found

        return await asyncio.to_thread(begin)

    async def until_free(self) -> None:
        async with asyncio.timeout(600):
            while self.target.budget.used:  # noqa: ASYNC110 - there is nothing that tells it
                await asyncio.sleep(0.01)


async def serving(budget: ByteBudget) -> Served:
    target = IscsiTarget(TARGET, {0: RamDisk(2 * 8 * MIB // BLOCK)}, budget=budget)
    return Served(target, await target.start("127.0.0.1", 0))


async def written(initiator: IscsiInitiator) -> None:
    """A write by somebody honest, repeated as initiators do after TASK SET FULL."""
    while True:
        response: Response = await initiator.execute(0, write(0, bytes(512 * 1024)))
        if response.status is not Status.TASK_SET_FULL:
            assert response.good
            return
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["withheld", "unread"])
def test_who_lets_data_lie_is_disconnected_and_the_others_are_served(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdover.iscsi.target.connection._WATCH_SECONDS", 0.05)
    monkeypatch.setattr("holdover.iscsi.target.connection._STALL_SECONDS", 1.0)

    def attack(sessions: list[Attacker]) -> None:
        for session in sessions:
            for tag in range(16):
                if kind == "withheld":
                    session.write(tag, 2 * MIB, bytes(262144))
                else:
                    session.read(tag, 8 * MIB)

    async def test() -> None:
        served = await serving(ByteBudget(4 * MIB))
        honest = await served.honest()
        sessions = await served.attack(attack)
        await written(honest)
        assert (await honest.execute(0, read(0, 1024))).good
        # those that got room have gone; who was told TASK SET FULL holds nothing
        await served.until_free()
        there = [each.initiator for each in served.target.sessions()]
        assert f"{INITIATOR}.honest" in there
        assert len(there) < 5
        for session in sessions:
            session.socket.close()
        await honest.close()
        await served.target.close()

    run(test)


def test_one_guests_export_does_not_take_the_room_of_another() -> None:
    async def test() -> None:
        whole = ByteBudget(8 * MIB)
        bad, fair = await serving(ByteBudget(8 * MIB, whole)), await serving(ByteBudget(8 * MIB, whole))

        def attack(sessions: list[Attacker]) -> None:
            for session in sessions:
                for tag in range(64):
                    session.write(tag, 2 * MIB, bytes(262144))

        sessions = await bad.attack(attack)
        assert whole.used <= 8 * MIB
        assert bad.target.budget.used > 4 * MIB
        honest = await fair.honest()
        for _ in range(10):
            # one command of each export can always be carried out, whatever the others hold
            assert (await honest.execute(0, write(0, bytes(512 * 1024)))).good
            assert (await honest.execute(0, read(0, 1024))).good
        for session in sessions:
            session.socket.close()
        await honest.close()
        for served in (bad, fair):
            await served.target.close()
        assert whole.used == 0

    run(test)


def test_nothing_stays_held_after_aborts_resets_and_ends() -> None:
    async def test() -> None:
        served = await serving(ByteBudget(4 * MIB))
        honest = await served.honest()
        tasks = [asyncio.create_task(honest.execute(0, write(0, bytes(MIB)))) for _ in range(12)]
        tasks += [asyncio.create_task(honest.execute(0, read(0, 2048))) for _ in range(12)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        await honest.reset_logical_unit(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await served.until_free()
        held = replace_sn(7)
        (session,) = await served.attack(lambda found: found[0].send(held), 1)
        async with asyncio.timeout(600):
            while not served.target.budget.used:  # noqa: ASYNC110 - there is nothing that tells it
                await asyncio.sleep(0.01)
        session.socket.close()
        await served.until_free()
        await honest.close()
        await served.target.close()

    run(test)


def replace_sn(cmd_sn: int) -> ScsiCommand:
    """A write with immediate data that comes before its turn."""
    pdu = ScsiCommand(9, 0, write(0, bytes(BLOCK)).cdb.ljust(16, b"\0"), 4096, 1, write=True, data=bytes(512))
    return structs.replace(pdu, cmd_sn=cmd_sn)
