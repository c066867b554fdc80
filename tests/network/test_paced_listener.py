from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from holdover.network.paced_listener import AcceptThrottle, PacedListener


@contextlib.contextmanager
def clients(listener: socket.socket, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(count)]


class Taken:
    """Who came, in which order, and when."""

    def __init__(self) -> None:
        self.parties: list[str] = []
        self.times: list[float] = []

    def take(self, connection: socket.socket, party: str) -> None:
        assert not connection.getblocking()
        self.parties.append(party)
        self.times.append(asyncio.get_running_loop().time())
        connection.close()


def hung_up(client: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        assert client.recv(1) == b""
    return True


def test_a_party_that_comes_too_often_is_turned_away() -> None:
    async def test() -> None:
        taken = Taken()
        parties = iter(["a"] * 10 + ["b"])
        pace = AcceptThrottle(burst=1000, seconds=0.001, burst_each=3, seconds_each=1000.0)
        with socket.create_server(("127.0.0.1", 0)) as listener, capture_logs() as log:
            paced = PacedListener(listener, "front end", pace, lambda _: next(parties), taken.take)
            with clients(listener, 11) as all_of_them:
                for each in all_of_them:
                    assert await asyncio.to_thread(hung_up, each)
            paced.close()
        assert taken.parties == ["a"] * 3 + ["b"]
        assert [each["event"] for each in log] == ["Connections were turned away."]

    asyncio.run(asyncio.wait_for(test(), 600))


def test_all_parties_together_wait() -> None:
    async def test() -> None:
        taken = Taken()
        pace = AcceptThrottle(burst=2, seconds=0.2, burst_each=1000, seconds_each=0.001)
        numbers = iter(range(100))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            paced = PacedListener(listener, "front end", pace, lambda _: str(next(numbers)), taken.take)
            with clients(listener, 6) as all_of_them:
                for each in all_of_them:
                    assert await asyncio.to_thread(hung_up, each)
            paced.close()
            paced.close()
        assert taken.parties == [str(number) for number in range(6)], "nobody is turned away"
        # two at once, and then one each 0.2 s
        assert taken.times[-1] - taken.times[0] > 3 * 0.2 * 0.9

    asyncio.run(asyncio.wait_for(test(), 600))


def test_a_connection_that_has_gone_harms_nobody() -> None:
    async def test() -> None:
        taken = Taken()
        gone = iter([True, False])

        def party_of(_: socket.socket) -> str:
            if next(gone):
                raise OSError
            return "a"

        pace = AcceptThrottle(burst=10, seconds=0.01, burst_each=10, seconds_each=0.01)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            paced = PacedListener(listener, "front end", pace, party_of, taken.take)
            with clients(listener, 2) as all_of_them:
                for each in all_of_them:
                    assert await asyncio.to_thread(hung_up, each)
            paced.close()
        assert taken.parties == ["a"]

    asyncio.run(asyncio.wait_for(test(), 600))


@pytest.mark.parametrize("paused", [False, True])
def test_a_closed_listener_takes_nobody(paused: bool) -> None:
    async def test() -> None:
        taken = Taken()
        pace = AcceptThrottle(burst=1, seconds=0.2, burst_each=10, seconds_each=0.01)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            paced = PacedListener(listener, "front end", pace, lambda _: "a", taken.take)
            if paused:
                with clients(listener, 2) as both:
                    assert await asyncio.to_thread(hung_up, both[1])
            before = len(taken.parties)
            paced.close()
            with clients(listener, 1):
                await asyncio.sleep(0.3)
            assert len(taken.parties) == before

    asyncio.run(asyncio.wait_for(test(), 600))


def test_what_is_given_back_does_not_count() -> None:
    pace = AcceptThrottle(burst=2, seconds=1.0, burst_each=2, seconds_each=1.0)
    for _ in range(10):
        assert pace.admits("a", 0.0)
        assert pace.pause(0.0) == 0.0
        pace.give_back("a")
    pace.give_back("a")  # there is nothing to give back
    assert [pace.admits("a", 0.0) for _ in range(3)] == [True, True, False]
    assert pace.admits("b", 0.0)
