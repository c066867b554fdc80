"""What is told only now and then."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdover.admission.seldom import Seldom


@given(st.lists(st.integers(0, 5), max_size=50))
def test_nothing_is_lost_and_it_is_told_seldom(pauses: list[int]) -> None:
    seldom, now, told = Seldom(10.0), 0.0, []
    for pause in pauses:
        now += pause
        count = seldom.due(now)
        if count:
            told.append((now, count))
    assert all(later - earlier >= 10 for (earlier, _), (later, _) in pairwise(told))
    assert seldom.due(now + 10) + sum(count for _, count in told) == len(pauses) + 1
