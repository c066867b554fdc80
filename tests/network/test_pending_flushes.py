"""What connections have to send leaves once, in the turn of the loop in which the cause of it came."""

from __future__ import annotations

import asyncio

import pytest

from holdover.network.pending_flushes import PendingFlushes, pending_flushes


def test_what_received_bytes_cause_leaves_when_they_are_taken() -> None:
    async def test() -> None:
        flushes, sent = pending_flushes(asyncio.get_running_loop()), list[str]()
        flushes.receiving()
        flushes.add(lambda: sent.append("a"))
        flushes.add(lambda: sent.append("b"))
        assert sent == []
        flushes.received(lambda: sent.append("who received"))
        assert sent == ["who received", "a", "b"]
        await asyncio.sleep(0)
        assert sent == ["who received", "a", "b"]

    asyncio.run(test())


def test_what_nobody_has_received_leaves_in_the_next_turn() -> None:
    async def test() -> None:
        flushes, sent = pending_flushes(asyncio.get_running_loop()), list[str]()
        flushes.add(lambda: sent.append("a"))
        flushes.add(lambda: sent.append("b"))
        assert sent == []
        await asyncio.sleep(0)
        assert sent == ["a", "b"]

    asyncio.run(test())


def test_a_flush_may_add_another() -> None:
    async def test() -> None:
        flushes, sent = PendingFlushes(asyncio.get_running_loop()), list[str]()
        flushes.receiving()
        flushes.add(lambda: flushes.add(lambda: sent.append("later")))
        flushes.received(lambda: None)
        assert sent == []
        await asyncio.sleep(0)
        assert sent == ["later"]
        # What waited for the next turn may leave with received bytes before.
        flushes.add(lambda: sent.append("a"))
        flushes.receiving()
        flushes.add(lambda: sent.append("b"))
        flushes.received(lambda: None)
        assert sent == ["later", "a", "b"]
        flushes.add(lambda: sent.append("c"))
        await asyncio.sleep(0)
        assert sent == ["later", "a", "b", "c"]

    asyncio.run(test())


def test_a_flush_that_fails_keeps_no_other_from_sending() -> None:
    def fail() -> None:
        raise OSError("it is closed")

    async def test() -> None:
        flushes, sent = PendingFlushes(asyncio.get_running_loop()), list[str]()
        flushes.receiving()
        flushes.add(lambda: sent.append("a"))
        flushes.add(fail)
        flushes.add(lambda: sent.append("b"))
        with pytest.raises(OSError, match="it is closed"):
            flushes.received(fail)
        assert sent == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sent == ["a", "b"]
        flushes.add(lambda: sent.append("c"))
        await asyncio.sleep(0)
        assert sent == ["a", "b", "c"]

    asyncio.run(test())
