"""Silent peers are asked, and given up when they stay silent."""

from __future__ import annotations

import asyncio

from holdover.iscsi.keep_alive import KeepAlive


class Peer:
    """Answers as many questions as it is told to."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.asked = 0
        self.given_up = asyncio.Event()
        self.watch = KeepAlive(0.001, 0.005, self.ask, self.given_up.set)

    def ask(self) -> None:
        self.asked += 1
        if self.asked <= self.answers:
            self.watch.received()


def test_a_peer_is_given_up_after_the_first_question_that_it_does_not_answer() -> None:
    async def test(answers: int) -> int:
        peer = Peer(answers)
        peer.watch.start()
        await asyncio.wait_for(peer.given_up.wait(), 300)
        return peer.asked

    assert [asyncio.run(test(answers)) for answers in (0, 1, 4)] == [1, 2, 5]


def test_nobody_is_given_up_when_the_watch_is_over() -> None:
    async def test() -> bool:
        peer = Peer(0)
        peer.watch.start()
        peer.watch.stop()
        await asyncio.sleep(0.05)
        return peer.given_up.is_set() or peer.asked > 0

    assert not asyncio.run(test())
