"""The pauses before a LUN is asked again."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from holdover.agent.guests.retry_pauses import FIRST, LONGEST, retry_pauses


@given(st.text())
def test_they_grow_to_a_limit(name: str) -> None:
    middle = FIRST
    for pause in islice(retry_pauses(name), 12):
        assert middle / 2 <= pause <= middle * 3 / 2
        middle = min(middle * 2, LONGEST)


def test_they_are_the_same_each_time() -> None:
    assert [*islice(retry_pauses("host-a/db1/0"), 8)] == [*islice(retry_pauses("host-a/db1/0"), 8)]


def test_a_thousand_hosts_do_not_ask_at_one_moment() -> None:
    """In no tenth of the time within which the second tries come are there twice as many as on average."""
    at = sorted(sum(islice(retry_pauses(f"host-{number}/db1"), 2)) for number in range(1000))
    width = (at[-1] - at[0]) / 10
    fullest = max(sum(start <= each < start + width for each in at) for start in at)
    assert fullest < 250
