"""Goes through every world of a `Model` and says by which actions a promise was broken.

``python -m tests.handover.explore`` goes through more than the tests do, and prints how far it came.
"""

from __future__ import annotations

import gc
import sys
import time
from array import array
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from holdover.scsi.cdbs.opcodes import ReservationType
from tests.handover.model import Model
from tests.handover.two_guests import TwoGuests
from tests.handover.world import KEY, NEW_KEY, THIRD_KEY, Bounds, Case, Violation

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

GUEST_CASES = {
    "holder and registrant": (Case(_REGISTRANTS), Case(None, key=NEW_KEY)),
    "holder and registrant, one key": (Case(_REGISTRANTS), Case(None)),
    "two of all registrants": (Case(_ALL), Case(None, key=NEW_KEY)),
}
"""What two guests are on one LUN before the handover of each."""

_TWO, _DOWN = (1, 2), (True, False)

PATH_CASES = {
    "row A": Case(_REGISTRANTS, source_paths=_TWO, source_up=_DOWN),
    "row B": Case(_REGISTRANTS, THIRD_KEY, source_paths=_TWO, source_up=_DOWN),
    "row C": Case(_REGISTRANTS, KEY, source_paths=_TWO, source_up=_DOWN),
    "row E": Case(
        _REGISTRANTS, source_paths=_TWO, source_up=_DOWN, destination_paths=_TWO, destination_up=_DOWN
    ),
    "the source has two": Case(_REGISTRANTS, source_paths=_TWO),
    "the destination has two": Case(_REGISTRANTS, destination_paths=_TWO),
    "both have two": Case(_REGISTRANTS, source_paths=_TWO, destination_paths=_TWO),
    "one of two, keys alone": Case(_REGISTRANTS, source_paths=_TWO, source_up=_DOWN, full_status=False),
    "both have two, keys alone": Case(
        _REGISTRANTS, source_paths=_TWO, destination_paths=_TWO, full_status=False
    ),
    "shared, keys alone": Case(_REGISTRANTS, KEY, source_paths=_TWO, source_up=_DOWN, full_status=False),
    "shared": Case(_REGISTRANTS, KEY, source_paths=_TWO),
    "one port, two target ports": Case(_REGISTRANTS, source_paths=(1, 1), destination_paths=(1, 1)),
    "four paths by two ports": Case(
        _REGISTRANTS, source_paths=(1, 1, 2, 2), destination_paths=(1, 1, 2, 2), by_port=True
    ),
    "by port": Case(_REGISTRANTS, source_paths=(1, 1, 2), destination_paths=(1, 1), by_port=True),
    "by port, shared": Case(_REGISTRANTS, KEY, source_paths=(1, 1), destination_paths=(1, 1), by_port=True),
    "registrant": Case(None, source_paths=_TWO, destination_paths=_TWO),
    "a third holds": Case(_REGISTRANTS, THIRD_KEY, third_holds=True, source_paths=_TWO),
} | {kind.short_name: Case(kind, source_paths=_TWO, destination_paths=_TWO) for kind in ReservationType}
"""The same for hosts with several paths."""


@dataclass(frozen=True)
class Explored:
    """How many distinct states and transitions between them there are, and how many states are ends."""

    states: int
    transitions: int
    ends: int


W = TypeVar("W", bound=Hashable)


class Explorable(Protocol[W]):
    """What `explore` goes through: a `Model`, or several of them together."""

    def start(self) -> W:
        """Before anything has happened."""

    def successors(self, world: W) -> Iterator[tuple[str, W, bool]]:
        """Everything that can happen: what it is, the world after it, whether it is a fault."""

    def canonical(self, world: W) -> W:
        """The world that stands for all that differ in nothing that counts."""

    def check(self, world: W) -> None:
        """Raise `Violation` if a promise is broken in this world."""

    def is_given_up(self, world: W) -> bool:
        """Whether only an operator can go on from here."""

    def check_end(self, world: W) -> None:
        """Raise `Violation` if nothing more can happen and not all is as it should be."""


class Broken(AssertionError):
    """A promise is broken; the message has the actions that lead there."""


def explore(model: Explorable[W]) -> Explored:
    """Visit all worlds, nearest first.

    Raises:
        Broken: A promise is broken in one of them; or there is one from which no end can be reached, even
            with no more faults.
    """
    # Millions of worlds stay until the end: to search them for cycles again and again is a third of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _explore(model)
    finally:
        if was_enabled:
            gc.enable()


def _explore(model: Explorable[W]) -> Explored:
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


def _everything() -> Iterator[tuple[str, Explorable[Any], Bounds]]:
    """One LUN in each case; then two LUNs; then two guests."""
    for bounds in (
        Bounds(2, 1, 0, True),
        Bounds(2, 0, 1, True),
        Bounds(3, 0, 0, True),
        Bounds(1, 1, 1, True),
    ):
        for name, case in CASES.items():
            yield name, Model((case,), bounds), bounds
    for name, case in PATH_CASES.items():
        yield name, Model((case,), Bounds(0, flaps=1)), Bounds(0, flaps=1)
    for name in ("row A", "row B", "row C", "the source has two", "the destination has two"):
        yield name, Model((PATH_CASES[name],), Bounds(1, flaps=1)), Bounds(1, flaps=1)
    for first, second in (
        ("holder", "holder"),
        ("holder", "registrant"),
        ("holder", "holder, key shared"),
        ("one of all", "registrant, key shared"),
    ):
        yield f"{first} + {second}", Model((CASES[first], CASES[second]), Bounds(2)), Bounds(2)
    for name, guests in GUEST_CASES.items():
        yield f"guests: {name}", TwoGuests(guests, Bounds(0)), Bounds(0)
    for opposite in (False, True):
        guests = GUEST_CASES["holder and registrant"]
        name = f"guests, {'opposite ways' if opposite else 'the same way'}"
        yield name, TwoGuests(guests, Bounds(1), opposite=opposite), Bounds(1)


def _main() -> int:
    console = Console()
    table = Table(
        "LUNS", "FAULTS", "THIRD", "GUEST", "PATHS", "STATES", "TRANSITIONS", "ENDS", "SECONDS", box=None
    )
    total = 0
    for name, model, bounds in _everything():
        began = time.perf_counter()
        try:
            found = explore(model)
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
            str(bounds.flaps),
            *(f"{figure:,}" for figure in figures),
            f"{took:.0f}",
        )
        console.print(f"{name}: {found.states:,} states, {total:,} in all", style="dim")
    console.print(table)
    console.print(f"{total:,} distinct states, no promise broken.")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
