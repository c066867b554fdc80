from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from holdover.paths.device_queue import Turns


def test_those_beyond_the_limit_wait_in_order() -> None:
    turns: Turns[str] = Turns(2)
    assert turns.begin("disk", "client", "a")
    assert turns.begin("disk", "client", "b")
    assert not turns.begin("disk", "client", "c")
    assert not turns.begin("disk", "client", "d")
    assert turns.begin("other", "client", "e"), "another device has turns of its own"
    assert turns.end("disk", "client") == "c"
    assert turns.end("disk", "client") == "d"
    assert turns.end("disk", "client") is None
    assert turns.begin("disk", "client", "f")


def test_a_client_has_no_more_than_its_share_and_those_who_wait_go_round() -> None:
    turns: Turns[str] = Turns(3, share=2)
    assert [turns.begin("disk", "greedy", each) for each in "abcde"] == [True, True, False, False, False]
    assert turns.begin("disk", "other", "x"), "a turn is left for others"
    assert not turns.begin("disk", "other", "y")
    assert not turns.begin("disk", "third", "z")
    assert turns.end("disk", "greedy") == "c"
    assert turns.end("disk", "greedy") == "y", "one of each client, and not the oldest first"
    assert turns.end("disk", "other") == "z"
    assert turns.end("disk", "other") == "d"
    assert turns.end("disk", "greedy") == "e"


@given(
    limit=st.integers(1, 4),
    share=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.booleans())),
)
def test_every_turn_is_used_and_nobody_is_forgotten(
    limit: int, share: int, steps: list[tuple[int, int, bool]]
) -> None:
    turns: Turns[tuple[int, int]] = Turns(limit, share)
    share = min(limit, share)
    under_way: list[list[int]] = [[], []]
    waiting: list[list[tuple[int, int]]] = [[], []]
    for number, (device, client, begins) in enumerate(steps):
        held = under_way[device]
        if begins:
            may = turns.begin(device, client, (client, number))
            assert may == (len(held) < limit and held.count(client) < share)
            if may:
                held.append(client)
            else:
                waiting[device].append((client, number))
        elif client in held:
            held.remove(client)
            following = turns.end(device, client)
            ready = [each for each in waiting[device] if held.count(each[0]) < share]
            assert (following is None) == (not ready)
            if following is not None:
                # of one client the one that has waited longest
                assert following == next(each for each in ready if each[0] == following[0])
                waiting[device].remove(following)
                held.append(following[0])
        assert len(held) <= limit
        assert all(held.count(each) <= share for each in held)
    for device, held in enumerate(under_way):
        while held:
            following = turns.end(device, held.pop())
            if following is not None:
                waiting[device].remove(following)
                held.append(following[0])
    assert waiting == [[], []], "whoever waits gets a turn in the end"


def test_a_client_waits_for_one_command_of_each_other_client_at_most() -> None:
    turns: Turns[int] = Turns(1)
    assert turns.begin("disk", 0, -1)
    for number in range(1000):
        assert not turns.begin("disk", 0, number)
    assert not turns.begin("disk", 1, 1000)
    assert [turns.end("disk", 0), turns.end("disk", 0)] == [0, 1000]


def test_many_threads_get_all_their_turns() -> None:
    turns: Turns[int] = Turns(3, share=2)
    lock = threading.Lock()
    done: list[int] = []
    now = most = 0

    def run(who: int | None) -> None:
        nonlocal now, most
        if who is None or not turns.begin("disk", who % 2, who):
            return
        while who is not None:
            with lock:
                now += 1
                most = max(most, now)
            with lock:
                now -= 1
                done.append(who)
            who = turns.end("disk", who % 2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(2000)))
    assert sorted(done) == list(range(2000))
    assert most <= 3
