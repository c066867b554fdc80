"""Goes through every world of a `Model` and says by which actions a promise was broken.

``python -m tests.handover.explore`` goes through more than the tests do, and prints how far it came.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from holdover.scsi.opcodes import ReservationType
from tests.handover.model import Model
from tests.handover.world import KEY, THIRD_KEY, Bounds, Case, Violation, World

__all__ = ["CASES", "Broken", "Explored", "explore"]

_EXCLUSIVE = ReservationType.WRITE_EXCLUSIVE
_REGISTRANTS = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
_ALL = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS

CASES = {
    "holder": Case(_REGISTRANTS),
    "sole writer": Case(_EXCLUSIVE),
    "registrant": Case(None),
    "one of all": Case(_ALL),
    "not registered": Case(None, registered=False),
    "holder, key shared": Case(_REGISTRANTS, KEY),
    "registrant, key shared": Case(None, KEY),
    "one of all, key shared": Case(_ALL, KEY),
    "holder beside a third": Case(_REGISTRANTS, THIRD_KEY),
    "a third holds": Case(_REGISTRANTS, THIRD_KEY, third_holds=True),
}
"""What the guest is on a LUN before a handover."""


@dataclass(frozen=True)
class Explored:
    """How many distinct states and transitions between them there are, and how many states are ends."""

    states: int
    transitions: int
    ends: int


class Broken(AssertionError):
    """A promise is broken; the message has the actions that lead there."""


def explore(model: Model) -> Explored:
    """Visit all worlds, nearest first.

    Raises:
        Broken: A promise is broken in one of them.
    """
    start = model.canonical(model.start())
    came: dict[World, tuple[World, str] | None] = {start: None}
    queue = deque([start])
    transitions = ends = 0
    while queue:
        world = queue.popleft()
        try:
            model.check(world)
            goes_on = False
            for what, after, fault in model.successors(world):
                new = model.canonical(after)
                transitions += 1
                goes_on = goes_on or (not fault and new != world)
                if new not in came:
                    came[new] = (world, what)
                    queue.append(new)
            if not goes_on:
                ends += 1
                model.check_end(world)
        except Violation as violation:
            raise Broken(f"{violation}\n{_way(came, world)}") from violation
    return Explored(len(came), transitions, ends)


def _way(came: dict[World, tuple[World, str] | None], world: World) -> str:
    steps = []
    before = came[world]
    while before is not None:
        steps.append(before[1])
        before = came[before[0]]
    return "\n".join(f"{number:3}. {step}" for number, step in enumerate(reversed(steps), 1))


def _everything() -> Iterator[tuple[str, tuple[Case, ...], Bounds]]:
    """One LUN in each case; then two LUNs."""
    for bounds in (Bounds(2, 1, 0, True), Bounds(2, 0, 1, True), Bounds(3, 0, 0, True), Bounds(1, 1, 1)):
        for name, case in CASES.items():
            yield name, (case,), bounds
    for first, second in (
        ("holder", "holder"),
        ("holder", "registrant"),
        ("holder", "holder, key shared"),
        ("one of all", "registrant, key shared"),
    ):
        yield f"{first} + {second}", (CASES[first], CASES[second]), Bounds(2)


def _main() -> int:
    console = Console()
    table = Table("LUNS", "FAULTS", "THIRD", "GUEST", "STATES", "TRANSITIONS", "ENDS", "SECONDS", box=None)
    total = 0
    for name, cases, bounds in _everything():
        began = time.perf_counter()
        try:
            found = explore(Model(cases, bounds))
        except Broken as broken:
            console.print(f"{name}, {bounds}: {broken}", markup=False)
            return 1
        total += found.states
        took = time.perf_counter() - began
        figures = (found.states, found.transitions, found.ends)
        table.add_row(
            name,
            f"{bounds.faults}{' or death' if bounds.dies else ''}",
            str(bounds.thirds),
            str(bounds.changes),
            *(f"{figure:,}" for figure in figures),
            f"{took:.0f}",
        )
        console.print(f"{name}: {found.states:,} states, {total:,} in all", style="dim")
    console.print(table)
    console.print(f"{total:,} distinct states, no promise broken.")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
