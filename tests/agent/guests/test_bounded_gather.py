"""Few works at a time, and none that keeps others waiting for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator

import pytest

from holdover.agent.guests.bounded_gather import bounded_gather

PATIENT = 60.0
IMPATIENT = 0.01


class _Works:
    """Works that note when they begin and end."""

    def __init__(self, hanging: frozenset[int] = frozenset()) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.most = 0
        self.release = asyncio.Event()
        self.seventeen = asyncio.Event()
        self._hanging = hanging

    def make(self, count: int) -> Iterator[Coroutine[object, object, None]]:
        return (self._work(number) for number in range(count))

    async def _work(self, number: int) -> None:
        self.begun.append(number)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        try:
            if number in self._hanging:
                await self.release.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        self.ended.append(number)
        if len(self.ended) == 17:
            self.seventeen.set()


def test_all_are_done_in_their_order_and_few_at_once() -> None:
    async def check() -> None:
        works = _Works()
        await bounded_gather(works.make(20), 3, PATIENT)
        assert works.begun == list(range(20))
        assert sorted(works.ended) == list(range(20))
        assert works.most == 3

    asyncio.run(check())


def test_works_that_hang_hold_up_no_others() -> None:
    async def check() -> None:
        works = _Works(frozenset({0, 1, 2}))
        all_of_them = asyncio.create_task(bounded_gather(works.make(20), 3, IMPATIENT))
        await works.seventeen.wait()
        assert not all_of_them.done()
        works.release.set()
        await all_of_them
        assert sorted(works.ended) == list(range(20))

    asyncio.run(check())


def test_one_that_fails_stops_no_others() -> None:
    async def fail() -> None:
        raise ValueError

    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        works = _Works()
        await bounded_gather(iter([fail(), *works.make(4)]), 2, PATIENT)
        assert sorted(works.ended) == list(range(4))

    asyncio.run(check())


@pytest.mark.parametrize("patience", [PATIENT, IMPATIENT])
def test_cancelling_it_cancels_what_is_under_way(patience: float) -> None:
    async def check() -> None:
        works = _Works(frozenset({0, 1}))
        all_of_them = asyncio.create_task(bounded_gather(works.make(2), 2, patience))
        await asyncio.sleep(IMPATIENT * 3)
        all_of_them.cancel()
        with pytest.raises(asyncio.CancelledError):
            await all_of_them
        assert sorted(works.cancelled) == [0, 1]

    asyncio.run(check())
