"""Goes through every world of a `Model` and says by which actions a promise was broken.

``python -m tests.handover.explore`` goes through more than the tests do, and prints how far it came.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from holdover.scsi.opcodes import ReservationType
from tests.handover.model import Model
from tests.handover.world import KEY, THIRD_KEY, Bounds, Case, Violation

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
    "holder without APTPL": Case(_REGISTRANTS, aptpl=False),
    "a third with APTPL": Case(_REGISTRANTS, THIRD_KEY, aptpl=False),
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
        Broken: A promise is broken in one of them; or there is one from which no end can be reached, even
            with no more faults.
    """
    start = model.canonical(model.start())
    numbers = {start: 0}
    came: list[tuple[int, str]] = [(0, "")]
    queue = deque([start])
    befores, afters = array("I"), array("I")
    ends: list[int] = []
    transitions = 0
    while queue:
        world = queue.popleft()
        here = numbers[world]
        try:
            model.check(world)
            goes_on = False
            for what, after, fault in model.successors(world):
                new = model.canonical(after)
                there = numbers.get(new)
                transitions += 1
                if there is None:
                    there = numbers[new] = len(came)
                    came.append((here, what))
                    queue.append(new)
                if not fault and there != here:
                    goes_on = True
                    befores.append(here)
                    afters.append(there)
            if not goes_on or model.is_given_up(world):
                ends.append(here)
                model.check_end(world)
        except Violation as violation:
            raise Broken(f"{violation}\n{_way(came, here)}") from violation
    stuck = _stuck(len(came), befores, afters, ends)
    if stuck is not None:
        raise Broken(f"no end can be reached any more\n{_way(came, stuck)}")
    return Explored(len(came), transitions, len(ends))


def _stuck(states: int, befores: array[int], afters: array[int], ends: list[int]) -> int | None:
    """The nearest state from which no end can be reached without a fault."""
    order = sorted(range(len(afters)), key=afters.__getitem__)
    first = array("I", [0]) * (states + 1)
    for after in afters:
        first[after + 1] += 1
    for state in range(states):
        first[state + 1] += first[state]
    reached = bytearray(states)
    ahead = list(ends)
    for end in ends:
        reached[end] = 1
    while ahead:
        state = ahead.pop()
        for place in order[first[state] : first[state + 1]]:
            before = befores[place]
            if not reached[before]:
                reached[before] = 1
                ahead.append(before)
    return next((state for state in range(states) if not reached[state]), None)


def _way(came: list[tuple[int, str]], state: int) -> str:
    steps = []
    while state:
        state, what = came[state]
        steps.append(what)
    return "\n".join(f"{number:3}. {step}" for number, step in enumerate(reversed(steps), 1))


def _everything() -> Iterator[tuple[str, tuple[Case, ...], Bounds]]:
    """One LUN in each case; then two LUNs."""
    for bounds in (
        Bounds(2, 1, 0, True),
        Bounds(2, 0, 1, True),
        Bounds(3, 0, 0, True),
        Bounds(1, 1, 1, True),
    ):
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
