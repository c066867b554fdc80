"""Other guests of this host that a handover could harm: registered on the same LUN by the same nexus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NexusRegistration:
    """What one device of a guest means for the other guests of the host.

    Attributes:
        guest: The guest's name.
        designator: The LUN.
        nexus: The I_T nexus of the host by which the LUN knows the guest; equal texts are one nexus.
        registered: Whether the guest has a registration there, or may have one.
    """

    guest: str
    designator: str
    nexus: str
    registered: bool


def nexus_conflict(guest: str, standings: Iterable[NexusRegistration]) -> NexusRegistration | None:
    """A registered device of another guest that shares LUN and nexus with one of ``guest``, or None."""
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
