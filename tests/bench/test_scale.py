from __future__ import annotations

import pytest
from bench.scale import growth, percentile, show, wanted
from bench.scale_inside import Figures, handed_over


def figures(guests: int) -> Figures:
    return Figures(
        guests=guests,
        memory_mib=50.4 + guests / 5,
        start_seconds=3.5,
        start_cpu_seconds=guests / 500,
        settled_seconds=0.25,
        refused=0,
        idle_us=[100.0] * 99 + [200.0],
        busy_us=[150.0] * 98 + [190.0, 400.0],
        handovers=handed_over(guests),
        handovers_seconds=1.0,
    )


@pytest.mark.parametrize(
    ("part", "found"),
    [(50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0)],
    ids=["p50", "p99", "all", "p1"],
)
def test_a_percentile_is_one_of_the_figures(part: int, found: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], part) == found


def test_a_single_figure_is_every_percentile() -> None:
    assert percentile([7.0], 99) == 7.0


def test_half_of_the_guests_are_handed_over_and_100_at_most() -> None:
    assert [handed_over(guests) for guests in (10, 100, 1000)] == [5, 50, 100]


def test_the_table_tells_devices_and_how_much_the_p99_grows() -> None:
    cells = [next(iter(column.cells)) for column in show([figures(1000)]).columns]
    assert cells == [
        "1,000",
        "16,000",
        "250",
        "3.50",
        "2.00",
        "0.25",
        "100",
        "100",
        "100",
        "1.00",
        "150",
        "190",
        "1.9",
        "0",
    ]


def test_what_is_wanted_counts_with_1000_guests_alone() -> None:
    assert wanted([figures(100)]).row_count == 0
    cells = [list(column.cells) for column in wanted([figures(1000)]).columns]
    assert cells[1:] == [["300", "3", "2"], ["250.4", "3.5", "1.9"], ["yes", "no", "yes"]]


def test_growth_is_told_from_each_number_of_guests_to_the_next() -> None:
    assert growth([figures(10)]).row_count == 0
    cells = [list(column.cells) for column in growth([figures(10), figures(100), figures(1000)]).columns]
    assert cells[0] == ["10 to 100", "100 to 1,000"]
    assert cells[1:] == [["10.0"] * 2, ["205"] * 2, ["10.0"] * 2, ["1.0"] * 2, ["1.0"] * 2]
