from __future__ import annotations

import pytest
from bench.gateway import Row, show


def row(direct: list[float], export: list[float], depth: int = 1) -> Row:
    figures = {"direct": direct, "export": export}
    return Row(
        target="tgt", load="read", depth=depth, commands_per_second=figures, agent_us=[30.0, 31.0, 90.0]
    )


def test_the_ratio_is_the_median_of_the_rounds_own() -> None:
    assert row([100.0, 1000.0, 100.0], [50.0, 100.0, 40.0]).ratio == 0.4


def test_what_is_added_is_time_for_each_command_while_as_many_are_in_flight() -> None:
    assert row([10_000.0], [5_000.0]).added_us == pytest.approx(100.0)
    assert row([10_000.0], [5_000.0], depth=32).added_us == pytest.approx(3200.0)


def test_the_table_has_a_row_for_each_load() -> None:
    cells = [list(column.cells) for column in show([row([10_000.0], [5_000.0])]).columns]
    assert cells == [["tgt"], ["read"], ["10,000"], ["5,000"], ["0.50"], ["100"], ["31"]]
