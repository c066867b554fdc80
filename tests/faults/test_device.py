"""What a fault does to a command, without a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from holdover.faults.armed import ArmedFaults, Strike
from holdover.faults.device import FaultyDevice, Means
from holdover.faults.fault import parse_fault
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status
from tests.faults.test_fault import NEXUS, WRITE_10

GOOD = Response(Status.GOOD)
READ_10 = Command(bytes.fromhex("28000000000000000100"))


class Setting:
    """A logical unit that notes what happens, in order, behind faults."""

    def __init__(self, *texts: str) -> None:
        self.noted: list[str] = []
        faults = ArmedFaults(lambda: 0.0)
        for text in texts:
            faults.add(parse_fault(text))
        self.faulty = FaultyDevice(5, self, faults, Means(self._cut, self._struck, self._sleep))

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        self.noted.append(f"now {command.opcode:#x}")
        return GOOD

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        self.noted.append(f"execute {command.opcode:#x}")
        return GOOD

    async def reset(self) -> None:
        self.noted.append("reset")

    async def nexus_lost(self, nexus: ITNexus) -> None:
        self.noted.append(f"lost {nexus}")

    async def lose_power(self) -> None:
        self.noted.append("power lost")

    def _cut(self, nexus: ITNexus) -> None:
        self.noted.append(f"cut {nexus}")

    def _struck(self, lun: int, nexus: ITNexus, command: Command, strike: Strike) -> None:
        self.noted.append(f"struck {lun} {[each.number for each in strike.faults]}")

    async def _sleep(self, seconds: float) -> None:
        self.noted.append(f"sleep {seconds}")

    async def answer(self, command: Command = WRITE_10) -> Response | None:
        """The answer, or None where none comes as long as anything can still happen."""
        task = asyncio.create_task(self.faulty.execute(NEXUS, command))
        for _ in range(20):
            await asyncio.sleep(0)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return None


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(600):
            await test()

    asyncio.run(limited())


@pytest.mark.parametrize(
    ("texts", "status", "noted"),
    [
        ([], Status.GOOD, ["execute 0x2a"]),
        (["status=busy,opcode=READ_10"], Status.GOOD, ["execute 0x2a"]),
        (["latency=20ms"], Status.GOOD, ["struck 5 [1]", "sleep 0.02", "execute 0x2a"]),
        (["latency=20ms,when=after"], Status.GOOD, ["struck 5 [1]", "execute 0x2a", "sleep 0.02"]),
        (["status=busy"], Status.BUSY, ["struck 5 [1]"]),
        (["status=task-set-full,latency=1s"], Status.TASK_SET_FULL, ["struck 5 [1]", "sleep 1.0"]),
        (["lose-response"], None, ["struck 5 [1]", "execute 0x2a"]),
        (["drop-connection"], None, ["struck 5 [1]", f"cut {NEXUS}"]),
        (["drop-connection,when=after"], None, ["struck 5 [1]", "execute 0x2a", f"cut {NEXUS}"]),
        (["power-loss"], Status.GOOD, ["struck 5 [1]", "power lost", "execute 0x2a"]),
        (
            ["power-loss,when=after", "lose-response"],
            None,
            ["struck 5 [1, 2]", "execute 0x2a", "power lost"],
        ),
        (
            ["latency=1s", "power-loss", "drop-connection"],
            None,
            ["struck 5 [1, 2, 3]", "sleep 1.0", "power lost", f"cut {NEXUS}"],
        ),
    ],
    ids=str,
)
def test_what_a_fault_does(texts: list[str], status: Status | None, noted: list[str]) -> None:
    async def test() -> None:
        setting = Setting(*texts)
        answer = await setting.answer()
        assert (None if answer is None else answer.status) is status
        assert setting.noted == noted

    run(test)


def test_only_what_may_be_struck_takes_the_long_way() -> None:
    setting = Setting("lose-response,opcode=WRITE_10,count=1")
    assert setting.faulty.execute_now(NEXUS, READ_10) is GOOD
    assert setting.faulty.execute_now(NEXUS, WRITE_10) is None
    assert setting.noted == ["now 0x28"], "nothing was done yet"

    async def test() -> None:
        assert await setting.answer() is None

    run(test)
    assert setting.faulty.execute_now(NEXUS, WRITE_10) is GOOD


def test_resets_and_lost_nexuses_pass() -> None:
    async def test() -> None:
        setting = Setting("lose-response")
        await setting.faulty.reset()
        await setting.faulty.nexus_lost(NEXUS)
        assert setting.noted == ["reset", f"lost {NEXUS}"]

    run(test)
