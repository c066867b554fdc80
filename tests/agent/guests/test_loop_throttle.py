"""Few in each turn of the loop, in their order, and nobody is left behind."""

from __future__ import annotations

import asyncio

import pytest

from holdover.agent.guests.loop_throttle import LoopThrottle, command_throttle


class _Turns:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.count = 0
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def end(self) -> None:
        self._handle.cancel()


def test_few_go_on_in_each_turn_in_the_order_in_which_they_came() -> None:
    async def check() -> None:
        throttle, turns = LoopThrottle(3), _Turns()
        went: list[tuple[int, int]] = []

        async def go(number: int) -> None:
            await throttle.wait()
            went.append((turns.count, number))

        await asyncio.gather(*(go(number) for number in range(20)))
        turns.end()
        assert [number for _, number in went] == list(range(20))
        in_turn = [sum(turn == each for turn, _ in went) for each in {turn for turn, _ in went}]
        assert max(in_turn) == 3

    asyncio.run(check())


def test_nobody_waits_where_few_are() -> None:
    async def check() -> None:
        throttle = LoopThrottle(2)
        for _ in range(3):
            for _ in range(2):
                with pytest.raises(StopIteration):
                    throttle.wait().send(None)
            for _ in range(2):  # the turn after this one
                await asyncio.sleep(0)

    asyncio.run(check())


def test_one_that_is_cancelled_takes_nobodys_place() -> None:
    async def check() -> None:
        throttle = LoopThrottle(1)
        first, second, third = (asyncio.create_task(throttle.wait()) for _ in range(3))
        await first
        second.cancel()
        await asyncio.wait_for(third, 300)
        assert second.cancelled()
        await asyncio.wait_for(throttle.wait(), 300)

    asyncio.run(check())


def test_a_loop_has_its_own() -> None:
    async def throttle() -> LoopThrottle:
        assert command_throttle() is command_throttle()
        return command_throttle()

    first, second = asyncio.run(throttle()), asyncio.run(throttle())
    assert first is not second
