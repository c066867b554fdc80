"""Goes through every world of a `Model` and says by which actions a promise was broken."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.handover.model import Model
from tests.handover.world import Violation, World

__all__ = ["Broken", "Explored", "explore"]


@dataclass(frozen=True)
class Explored:
    """How many distinct states and transitions between them there are, and how many states are ends."""

    states: int
    transitions: int
    ends: int


class Broken(AssertionError):
    """A promise is broken; the message has the actions that lead there."""


def explore(model: Model, limit: int = 0) -> Explored:
    """Visit all worlds, nearest first; ``limit`` > 0 ends it after so many states.

    Raises:
        Broken: A promise is broken in one of them.
    """
    start = model.canonical(model.start())
    came: dict[World, tuple[World, str] | None] = {start: None}
    queue = deque([start])
    transitions = ends = 0
    while queue and (not limit or len(came) < limit):
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
