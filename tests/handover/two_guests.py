"""Two guests with one LUN, each with a handover of its own, at the same time and between the same hosts.

Each guest has its own I_T nexus on each host, as behind iSCSI. To each of them the other is a third node,
whose registrations move meanwhile. A host that crashes crashes for both, and the network parts for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.handover.model import Model
from tests.handover.world import Bounds, Case, Names, World, nexus_of

_SECOND = Names((nexus_of("source-2"), nexus_of("destination-2")), 0x51, 0xD1, 0xF1)


class Pair(NamedTuple):
    """The worlds of both guests; the LUN is the same in both."""

    first: World
    second: World


class TwoGuests:
    """The worlds of two guests.

    Args:
        cases: What each guest is on the LUN.
        bounds: What may go wrong, for both together.
        opposite: The second guest goes where the first one comes from.
    """

    def __init__(self, cases: tuple[Case, Case], bounds: Bounds, *, opposite: bool = False) -> None:
        self._models = (Model((cases[0],), bounds), Model((cases[1],), bounds, names=_SECOND))
        self._models[1].share_parts_of(self._models[0])
        self._cases = cases
        self._opposite = opposite

    def start(self) -> Pair:
        """Both guests are registered, and have what they have."""
        state, _ = self._cases[0].begin()
        state, _ = self._cases[1].begin(_SECOND.nexuses[0], state)
        luns = (self._models[0].id(state),)
        first, second = (model.start()._replace(luns=luns) for model in self._models)
        return Pair(first, second)

    def successors(self, pair: Pair) -> Iterator[tuple[str, Pair, bool]]:
        """Everything that can happen to one of the guests, or to both."""
        for who, model in enumerate(self._models):
            for what, after, fault in model.successors(pair[who]):
                other = self._other(who, pair[1 - who], pair[who], after)
                both = Pair(after, other) if who == 0 else Pair(other, after)
                yield f"guest {who + 1}: {what}", both, fault

    def _other(self, who: int, other: World, before: World, after: World) -> World:
        """What happens to the other guest with it."""
        model = self._models[1 - who]
        other = other._replace(luns=after.luns, faults=after.faults)
        if after.cut != other.cut:
            other = other._replace(cut=after.cut, net=() if after.cut else other.net)
        for side, name in enumerate(("source_up", "destination_up")):
            same_host = 1 - side if self._opposite else side
            is_up = getattr(after, name)
            if is_up == getattr(before, name):
                continue
            if not is_up:
                other = model.down(other, same_host)
            else:
                other = (model.restart_destination if same_host else model.restart_source)(other)
        return other

    def canonical(self, pair: Pair) -> Pair:
        """The same worlds with the smallest message numbers."""
        return Pair(*(model.canonical(world) for model, world in zip(self._models, pair, strict=True)))

    def check(self, pair: Pair) -> None:
        """Raise `Violation` if a promise to one of the guests is broken."""
        for model, world in zip(self._models, pair, strict=True):
            model.check(world)

    def is_given_up(self, pair: Pair) -> bool:
        """Whether one of them is the operator's matter."""
        return any(model.is_given_up(world) for model, world in zip(self._models, pair, strict=True))

    def check_end(self, pair: Pair) -> None:
        """Raise `Violation` if not all is as it should be at the end."""
        for model, world in zip(self._models, pair, strict=True):
            model.check_end(world)
