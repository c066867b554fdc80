"""The histogram counts every duration once, in Prometheus' cumulative buckets."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from holdover.metrics.durations import COMMAND_BOUNDS, Durations


@given(st.lists(st.floats(0, 100)))
def test_each_bucket_has_all_that_are_not_longer(seconds: list[float]) -> None:
    durations = Durations(COMMAND_BOUNDS)
    for each in seconds:
        durations.observe(each)
    buckets, total = durations.buckets()
    assert [float(end) for end, _ in buckets] == [*COMMAND_BOUNDS, float("inf")]
    assert [count for _, count in buckets] == [sum(e <= float(end) for e in seconds) for end, _ in buckets]
    assert total == sum(seconds)
    assert durations.count == len(seconds)


def test_threads_lose_nothing() -> None:
    durations = Durations(COMMAND_BOUNDS)

    def observe() -> None:
        for _ in range(2000):
            durations.observe(0.001)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert durations.count == 8000
