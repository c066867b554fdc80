"""What moving reservations adds to a standstill: tables and plots from measured migrations. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec
from rich.console import JustifyMethod
from rich.table import Table

from bench.figures import Spread, differences, uncertainty
from bench.plot import Panel, Point, Series

_NOTHING_MS = 3.0
"""Two runs of the same thing differ by more than this, even if nothing else runs."""


class Run(Enum):
    """The kinds of migration that are measured side by side, by their letters in the tables."""

    NEW_OFF = "a"
    """QEMU 11.1, migrate-pr=off."""
    NEW_ON = "b"
    """QEMU 11.1, migrate-pr=on."""
    HOLDOVER = "c"
    """The installed QEMU with Holdover; the agents drive both QEMUs."""
    ALONE = "d"
    """The installed QEMU alone; its reservations stay behind."""
    HOLDOVER_S = "e"
    """As c, with the destination started with -S."""
    ALONE_S = "f"
    """As d, with the destination started with -S and told to run as soon as it can."""
    HOLDOVER_MEMORY = "g"
    """As c, with the agents' journals in memory: the cost with a disk that syncs in no time."""
    HOLDOVER_EARLY = "h"
    """As c, with `early-commit`: no journal between the guest's stop and the answer to the commit."""
    HOLDOVER_COMMAND = "i"
    """As c, but `holdover migrate` drives both QEMUs itself."""
    HOLDOVER_COMMAND_EARLY = "j"
    """As i, with `early-commit`."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One number of LUNs at one delay.

    Attributes:
        luns: The number of the guest's LUNs.
        delay_ms: The delay of the way to the target, in each direction.
        standstill_ms: The time from STOP to RESUME in each round, by the letter of the run.
        handover_ms: The part of that time that Holdover itself reports for the handover.
    """

    luns: int
    delay_ms: float
    standstill_ms: dict[str, list[float]]
    handover_ms: dict[str, list[float]] = {}


class Cost(Enum):
    """Pairs of runs; their difference is what moving the reservations adds."""

    PEER = (Run.NEW_ON, Run.NEW_OFF)
    OURS = (Run.HOLDOVER, Run.ALONE)
    OURS_S = (Run.HOLDOVER_S, Run.ALONE_S)
    OURS_MEMORY = (Run.HOLDOVER_MEMORY, Run.ALONE)
    OURS_EARLY = (Run.HOLDOVER_EARLY, Run.ALONE)

    @property
    def title(self) -> str:
        """The name in tables and plots."""
        return {
            "PEER": "QEMU 11.1 migrate-pr",
            "OURS": "Holdover",
            "OURS_S": "Holdover, -S",
            "OURS_MEMORY": "Holdover, no sync",
            "OURS_EARLY": "Holdover, early",
        }[self.name]

    @property
    def formula(self) -> str:
        """The difference as letters of the runs."""
        return f"{self.value[0].value}-{self.value[1].value}"


def cost(case: Case, which: Cost) -> Spread | None:
    """The milliseconds added in each round; None if one of the two runs was not measured."""
    more, less = (case.standstill_ms.get(run.value, []) for run in which.value)
    found = differences(more, less)
    return Spread.of(found) if found else None


def is_settled(case: Case, milliseconds: float) -> bool:
    """Whether the median of each difference is known to ``milliseconds``."""
    for which in Cost:
        more, less = (case.standstill_ms.get(run.value, []) for run in which.value)
        found = differences(more, less)
        if found and uncertainty(found) > milliseconds:
            return False
    return True


def standstill_table(cases: Sequence[Case]) -> Table:
    """A table of every run's median and spread, in milliseconds."""
    runs = [run for run in Run if any(case.standstill_ms.get(run.value) for case in cases)]
    table = _table("LUNS", "DELAY ms", *(f"{run.value} ms" for run in runs))
    for case in cases:
        spreads = [Spread.of(figures) if figures else None for figures in _figures(case, runs)]
        table.add_row(str(case.luns), f"{case.delay_ms:g}", *map(_cell, spreads))
    return table


def cost_table(cases: Sequence[Case]) -> Table:
    """A table of what each way adds, ours as a share of the peer's, and what Holdover itself reports."""
    table = _table(
        "LUNS",
        "DELAY ms",
        *(f"{each.title} {each.formula}" for each in Cost),
        "OURS/PEER",
        "SAYS ITSELF",
        "EARLY",
    )
    for case in cases:
        costs = [cost(case, each) for each in Cost]
        peer, ours = costs[:2]
        ratio = (
            "-" if peer is None or ours is None or peer.median <= 0 else f"{ours.median / peer.median:.2f}"
        )
        told = [_median(case.handover_ms.get(run.value)) for run in (Run.HOLDOVER, Run.HOLDOVER_EARLY)]
        table.add_row(str(case.luns), f"{case.delay_ms:g}", *map(_cell, costs), ratio, *told)
    return table


def wanted_table(cases: Sequence[Case]) -> Table:
    """A table of the wanted and the reached figures, for the numbers of LUNs that were measured."""
    table = _table("WANTED", "AT MOST ms", "FOUND ms", "REACHED")
    ways = (Cost.OURS, Cost.OURS_MEMORY, Cost.OURS_EARLY)
    ours = {(case.luns, case.delay_ms, which): cost(case, which) for case in cases for which in ways}
    for (luns, delay, which), found in ours.items():
        if found is None:
            continue
        where = f"{which.title}, {luns} LUNs, {delay:g} ms each way"
        if luns == 64:
            _add(table, f"{where}: a round trip and 3 ms", 2 * delay + 3, found.median)
        one = ours.get((1, delay, which))
        if luns == 256 and one is not None:
            _add(table, f"{where}: 1.5 times that of one LUN", 1.5 * one.median, found.median)
    for case in cases:
        with_s = cost(case, Cost.OURS_S)
        if with_s is not None and case.luns in {64, 256}:
            title = f"Holdover, -S, {case.luns} LUNs, {case.delay_ms:g} ms each way: nothing to be measured"
            _add(table, title, _NOTHING_MS, with_s.median)
    return table


def cost_panels(cases: Sequence[Case]) -> list[Panel]:
    """A panel for each delay: the milliseconds added, by the number of LUNs."""
    panels = []
    for delay in sorted({case.delay_ms for case in cases}):
        series = []
        for which in Cost:
            points = [
                Point(case.luns, found.median, found.low, found.high)
                for case in sorted(cases, key=lambda case: case.luns)
                if case.delay_ms == delay and (found := cost(case, which)) is not None
            ]
            if points:
                series.append(Series(which.title, tuple(points)))
        panels.append(Panel(f"{delay:g} ms each way", tuple(series)))
    return panels


def _figures(case: Case, runs: Sequence[Run]) -> list[list[float]]:
    return [case.standstill_ms.get(run.value, []) for run in runs]


def _median(figures: Sequence[float] | None) -> str:
    return f"{Spread.of(figures).median:.1f}" if figures else "-"


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.median:.1f} ({spread.low:.0f}…{spread.high:.0f})"


def _add(table: Table, title: str, most: float, found: float) -> None:
    table.add_row(title, f"{most:.1f}", f"{found:.1f}", "yes" if found <= most else "no")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        justify: JustifyMethod = "left" if heading == "WANTED" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    return table
