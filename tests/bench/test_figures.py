from __future__ import annotations

import math

import pytest
from bench.figures import Spread, differences, median_ratio, uncertainty


def test_a_spread_is_the_median_between_the_least_and_the_most() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0, 3)
    assert Spread.of([4.0, 1.0]).median == 2.5


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="no figure"):
        Spread.of([])


def test_a_median_is_known_better_with_more_figures() -> None:
    assert uncertainty([7.0]) == math.inf
    assert uncertainty([3.0, 1.0]) == 1.0
    assert uncertainty(range(9)) == 2.0
    assert uncertainty([each / 10 for each in range(90)]) < 1.0
    assert uncertainty([*[5.0] * 38, 0.0, 100.0]) == 0.0


def test_a_drift_from_round_to_round_cancels_out() -> None:
    assert differences([11.0, 101.0, 1001.0], [10.0, 100.0, 1000.0]) == [1.0, 1.0, 1.0]


def test_a_round_that_only_one_of_two_took_part_in_does_not_count() -> None:
    assert differences([11.0, 101.0], [10.0]) == [1.0]
    assert median_ratio([10.0, 30.0], [5.0]) == 2.0


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    assert median_ratio([10.0, 10.0, 10.0], [10.0, 5.0, 1.0]) == 2.0
    assert median_ratio([10.0, 10.0], [0.0, 5.0]) == 2.0
    assert median_ratio([], []) is None
    assert median_ratio([1.0], [0.0]) is None
