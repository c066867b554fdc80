from __future__ import annotations

from bench.costs import (
    Case,
    Cost,
    cost,
    cost_panels,
    cost_table,
    is_settled,
    standstill_table,
    wanted_table,
)
from bench.figures import Spread
from rich.table import Table


def case(luns: int, delay: float, **runs: list[float]) -> Case:
    return Case(luns=luns, delay_ms=delay, standstill_ms=runs)


def rows(table: Table) -> list[list[str]]:
    """The cells of each row, without the headings."""
    return [list(cells) for cells in zip(*(column.cells for column in table.columns), strict=True)]


FULL = case(
    64,
    1,
    a=[10.0, 20.0, 30.0],
    b=[110.0, 125.0, 130.0],
    c=[14.0, 24.0, 33.0],
    d=[10.0, 20.0, 30.0],
    e=[10.0, 11.0, 12.0],
    f=[10.0, 10.0, 14.0],
)


def test_a_cost_is_the_difference_of_two_runs_round_by_round() -> None:
    assert cost(FULL, Cost.PEER) == Spread(100.0, 100.0, 105.0, 3)
    assert cost(FULL, Cost.OURS) == Spread(4.0, 3.0, 4.0, 3)
    assert cost(FULL, Cost.OURS_S) == Spread(0.0, -2.0, 1.0, 3)


def test_what_was_not_measured_has_no_cost() -> None:
    assert cost(case(1, 0, a=[1.0], c=[1.0]), Cost.PEER) is None
    assert cost(case(1, 0, a=[1.0], b=[]), Cost.PEER) is None


def test_the_tables_tell_medians_spreads_and_our_share() -> None:
    assert rows(standstill_table([FULL]))[0][:3] == ["64", "1", "20.0 (10…30)"]
    assert rows(cost_table([FULL])) == [
        ["64", "1", "100.0 (100…105)", "4.0 (3…4)", "0.0 (-2…1)", "-", "-", "0.04", "-", "-"]
    ]


def test_what_is_missing_is_a_dash_and_never_a_figure() -> None:
    ours = case(4, 5, c=[4.0], d=[1.0])
    assert len(rows(standstill_table([ours]))[0]) == 4
    assert rows(cost_table([ours])) == [["4", "5", "-", "3.0 (3…3)", "-", "-", "-", "-", "-", "-"]]


def test_what_holdover_says_of_itself_stands_beside() -> None:
    told = {"c": [2.0, 3.0, 4.0], "h": [1.0]}
    said = Case(luns=1, delay_ms=0, standstill_ms={"c": [9.0]}, handover_ms=told)
    assert rows(cost_table([said]))[0][-2:] == ["3.0", "1.0"]


def test_a_case_is_settled_when_the_median_of_each_difference_is_known() -> None:
    apart = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert is_settled(case(1, 0, c=[2.0] * 9, d=[1.0] * 9), 1.0)
    assert not is_settled(case(1, 0, c=apart, d=[1.0] * 9), 1.0)
    assert not is_settled(case(1, 0, a=[0.0], b=[1.0], c=[2.0] * 9, d=[1.0] * 9), 1.0)


def test_what_is_wanted_is_a_round_trip_and_3_ms_for_64_luns() -> None:
    first = rows(wanted_table([FULL]))[0]
    assert first[1:] == ["5.0", "4.0", "yes"]
    slow = case(64, 1, c=[16.0], d=[10.0])
    assert rows(wanted_table([slow]))[0][1:] == ["5.0", "6.0", "no"]


def test_what_is_wanted_for_256_luns_is_half_as_much_again_as_for_one() -> None:
    cases = [case(1, 5, c=[14.0], d=[4.0]), case(256, 5, c=[19.0], d=[4.0])]
    assert rows(wanted_table(cases))[0][1:] == ["15.0", "15.0", "yes"]


def test_with_s_nothing_is_wanted() -> None:
    assert rows(wanted_table([FULL]))[1][1:] == ["3.0", "0.0", "yes"]
    slow = case(64, 1, e=[16.0], f=[10.0])
    assert rows(wanted_table([slow]))[0][1:] == ["3.0", "6.0", "no"]


def test_the_plot_has_a_panel_for_each_delay_and_a_line_for_each_way() -> None:
    panels = cost_panels([FULL, case(1, 1, a=[1.0], b=[3.0]), case(1, 0, c=[2.0], d=[1.0])])
    assert [panel.title for panel in panels] == ["0 ms each way", "1 ms each way"]
    assert [[series.name for series in panel.series] for panel in panels] == [
        ["Holdover"],
        ["QEMU 11.1 migrate-pr", "Holdover", "Holdover, -S"],
    ]
    assert [point.x for point in panels[1].series[0].points] == [1, 64]
