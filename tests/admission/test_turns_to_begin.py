from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.admission.turns_to_begin import Rates, TurnsToBegin

WIDE = Rates(burst=1000, seconds=0.001, burst_each=1000, seconds_each=0.001)


def test_the_parties_take_turns() -> None:
    turns: TurnsToBegin[str] = TurnsToBegin(WIDE)
    for number in range(10):
        turns.add("flood", f"flood {number}")
    turns.add("peer", "peer")
    assert [turns.next(0.0)[0] for _ in range(3)] == ["flood 0", "peer", "flood 1"]


def test_a_party_above_its_rate_waits_and_delays_nobody() -> None:
    turns: TurnsToBegin[str] = TurnsToBegin(Rates(burst=100, seconds=0.001, burst_each=1, seconds_each=5.0))
    for client in ("a", "b", "c"):
        turns.add("flood", client)
    assert turns.next(0.0) == ("a", 0.0)
    nobody, pause = turns.next(0.0)
    assert nobody is None
    assert pause == pytest.approx(5.0)
    turns.add("peer", "peer")
    assert turns.next(0.0) == ("peer", 0.0)
    assert turns.next(4.9)[0] is None
    assert turns.next(5.0) == ("b", 0.0)
    turns.remove("flood", "c")
    turns.remove("flood", "c")
    assert turns.next(5.0) == (None, 0.0), "nobody waits, so there is nothing to wait for"


RATES = st.builds(
    Rates,
    burst=st.integers(1, 6),
    seconds=st.sampled_from([0.1, 0.5]),
    burst_each=st.integers(1, 4),
    seconds_each=st.sampled_from([0.2, 1.0]),
)
PARTIES = st.sampled_from("abc")


@given(RATES, st.lists(st.one_of(PARTIES, st.floats(0.0, 1.0)), max_size=60))
def test_nobody_is_above_a_rate_and_everybody_begins(rates: Rates, steps: list[str | float]) -> None:
    turns: TurnsToBegin[tuple[str, int]] = TurnsToBegin(rates)
    now, added, begun = 0.0, 0, list[tuple[float, str, int]]()

    def begin_all() -> float:
        while True:
            client, pause = turns.next(now)
            if client is None:
                return pause
            begun.append((now, *client))

    for step in steps:
        if isinstance(step, str):
            turns.add(step, (step, added))
            added += 1
        else:
            now += step
        begin_all()
    while pause := begin_all():
        now += pause
    assert len(begun) == added
    for wanted, burst, seconds in (
        ("abc", rates.burst, rates.seconds),
        *((party, rates.burst_each, rates.seconds_each) for party in "abc"),
    ):
        times = [time for time, party, _ in begun if party in wanted]
        for first, time in enumerate(times):
            for last in range(first, len(times)):
                assert last - first + 1 <= burst + (times[last] - time) / seconds + 1e-6
    for party in "abc":
        numbers = [number for _, each, number in begun if each == party]
        assert numbers == sorted(numbers), "a party's clients begin in their order"


def test_a_party_that_was_refused_waits_longer_and_delays_nobody() -> None:
    turns: TurnsToBegin[str] = TurnsToBegin(Rates(burst=100, seconds=0.001, burst_each=4, seconds_each=1.0))
    turns.add("flood", "a")
    assert turns.next(0.0) == ("a", 0.0)
    turns.charge("flood", 0.0, 5)
    turns.add("flood", "b")
    nobody, pause = turns.next(0.0)
    assert nobody is None
    assert pause == pytest.approx(3.0)
    turns.add("peer", "peer")
    assert turns.next(0.0) == ("peer", 0.0)
    assert turns.next(3.0) == ("b", 0.0)
