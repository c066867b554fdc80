"""Guests of one host that a handover could hurt: registered on the same LUN as the same nexus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Standing", "neighbour"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One guest's device, as far as its neighbours are concerned.

    Attributes:
        guest: The guest's name.
        designator: Which LUN.
        nexus: By which I_T nexus of the host the LUN knows the guest: equal texts are one nexus.
        registered: Whether the guest has a registration there, or may have one.
    """

    guest: str
    designator: str
    nexus: str
    registered: bool


def neighbour(guest: str, standings: Iterable[Standing]) -> Standing | None:
    """A device of another guest that shares LUN and nexus with one of ``guest`` and is registered."""
    known = list(standings)
    ours = {(each.designator, each.nexus) for each in known if each.guest == guest}
    return next(
        (
            each
            for each in known
            if each.guest != guest and each.registered and (each.designator, each.nexus) in ours
        ),
        None,
    )
