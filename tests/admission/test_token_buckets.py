from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.admission.token_buckets import TokenBuckets


def test_a_few_at_once_and_then_one_after_the_other() -> None:
    allowance = TokenBuckets(burst=3, every=2.0)
    assert [allowance.take("db1", 100.0) for _ in range(3)] == [0.0] * 3
    assert allowance.take("db1", 100.0) == pytest.approx(2.0)
    assert allowance.take("db2", 100.0) == 0.0, "others have their own"
    assert allowance.take("db1", 101.0) == pytest.approx(1.0)
    assert allowance.take("db1", 102.0) == 0.0
    assert allowance.take("db1", 102.0) > 0


@given(
    st.integers(1, 5),
    st.floats(0.1, 10.0),
    st.floats(0, 1e9),
    st.lists(st.floats(0, 5.0), max_size=60),
)
def test_never_more_than_burst_and_rate_allow(
    burst: int, every: float, start: float, pauses: list[float]
) -> None:
    allowance = TokenBuckets(burst, every)
    now, taken = start, 0
    for pause in pauses:
        now += pause
        wait = allowance.take("key", now)
        taken += wait == 0.0
        assert taken <= burst + (now - start) / every + 0.01
        if wait:
            # whoever waits as long as he is told gets one, and may be told again of a rounding error
            assert wait <= every * 1.001
            assert TokenBuckets.take(allowance, "key", now + wait + every * 0.01) == 0.0
            taken += 1
            now += wait + every * 0.01


def test_what_is_full_again_is_not_kept() -> None:
    allowance = TokenBuckets(burst=1, every=1.0)
    for number in range(1000):
        allowance.take(number, number * 10.0)
    assert len(allowance._full_at) == 1


def test_tokens_that_are_reserved_come_one_after_the_other() -> None:
    allowance = TokenBuckets(burst=2, every=1.0)
    waits = [allowance.reserve("uid 65534", 100.0, longest=3.0) for _ in range(7)]
    assert waits == pytest.approx([0.0, 0.0, 1.0, 2.0, 3.0, 3.0, 3.0])
    assert allowance.reserve("uid 0", 100.0, longest=3.0) == 0.0
    # what was not taken does not make anybody wait later
    assert allowance.reserve("uid 65534", 102.0, longest=3.0) == pytest.approx(1.0)


@given(st.integers(1, 5), st.floats(0.1, 10.0), st.lists(st.integers(1, 9), max_size=20))
def test_a_charge_delays_its_key_alone_and_never_for_long(
    burst: int, every: float, charges: list[int]
) -> None:
    allowance = TokenBuckets(burst, every)
    for tokens in charges:
        allowance.charge("key", 0.0, tokens)
    assert allowance.pause("other", 0.0) == 0.0
    owed = min(sum(charges), 2 * burst)
    wait = allowance.pause("key", 0.0)
    assert wait == pytest.approx(max(0.0, (owed + 1 - burst) * every))
    assert wait <= (burst + 1) * every * 1.001
