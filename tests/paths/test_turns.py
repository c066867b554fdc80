from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from holdover.paths.turns import Turns


def test_those_beyond_the_limit_wait_in_order() -> None:
    turns: Turns[str] = Turns(2)
    assert turns.begin("disk", "a")
    assert turns.begin("disk", "b")
    assert not turns.begin("disk", "c")
    assert not turns.begin("disk", "d")
    assert turns.begin("other", "e"), "another device has turns of its own"
    assert turns.end("disk") == "c"
    assert turns.end("disk") == "d"
    assert turns.end("disk") is None
    assert turns.begin("disk", "f")


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 2), st.booleans())))
def test_never_more_than_the_limit_and_nobody_is_forgotten(limit: int, steps: list[tuple[int, bool]]) -> None:
    turns: Turns[int] = Turns(limit)
    under_way: dict[int, list[int]] = {0: [], 1: [], 2: []}
    waiting: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for who, (device, begins) in enumerate(steps):
        if begins:
            may = turns.begin(device, who)
            assert may == (len(under_way[device]) < limit)
            (under_way if may else waiting)[device].append(who)
        elif under_way[device]:
            under_way[device].pop()
            following = turns.end(device)
            assert following == (waiting[device].pop(0) if waiting[device] else None)
            if following is not None:
                under_way[device].append(following)


def test_many_threads_get_all_their_turns() -> None:
    turns: Turns[int] = Turns(3)
    lock = threading.Lock()
    done: list[int] = []
    now = most = 0

    def run(who: int | None) -> None:
        nonlocal now, most
        if who is None or not turns.begin("disk", who):
            return
        while who is not None:
            with lock:
                now += 1
                most = max(most, now)
            with lock:
                now -= 1
                done.append(who)
            who = turns.end("disk")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(2000)))
    assert sorted(done) == list(range(2000))
    assert most <= 3
