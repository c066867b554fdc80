"""Decides about a registration that was found on the guest's nexus, by the guest's `adopt` setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdover.reservations.own_registration import Found
from holdover.reservations.tracked import Tracked


@dataclass(frozen=True, slots=True)
class Adoption:
    """The decision about what was found.

    Attributes:
        tracked: The state to track from now on; None: keep what is tracked.
        report: The message for the operator: what was found, and what to do about it; empty if there is none.
    """

    tracked: Tracked | None
    report: str = ""


def decide(
    adopt: bool | None, tracked: Tracked, candidates: Sequence[int], found: Found, *, sole: bool
) -> Adoption:
    """The decision about what was found on the guest's nexus.

    Args:
        adopt: The guest's setting: True: a registration that the guest did not make through this agent is
            adopted; False: it is reported; None: adopted where there is one explanation for it.
        tracked: What was tracked.
        candidates: Keys that the guest may have set, besides that of `tracked`.
        found: What was found.
        sole: Whether the nexus belongs to the guest alone, so that no other guest of this host can have
            registered it.
    """
    if not found.certain:
        return Adoption(None, f"{found.reason}; have the guest register again")
    key = found.tracked.key
    if key in (0, tracked.key) or key in candidates:
        return Adoption(found.tracked)
    if adopt or (adopt is None and sole):
        return Adoption(found.tracked)
    return Adoption(
        None,
        f"this host's nexus is registered with key {key:#x}, which the guest did not register through this "
        "agent; set adopt = true for the guest if that registration is the guest's, or unregister it",
    )
