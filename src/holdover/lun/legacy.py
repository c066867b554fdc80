"""RESERVE and RELEASE of SPC-2 together with persistent reservations (CRH=1), pure.

SPC-2 5.5.1 keeps the two kinds apart. While any I_T nexus is registered, RESERVE and RELEASE conflict. While
the logical unit is reserved by RESERVE, PERSISTENT RESERVE IN and OUT conflict, from every I_T nexus.
Compatible reservation handling (SPC-4 5.13.3) makes one exception: from an I_T nexus to which the persistent
reservation gives access anyway, RESERVE and RELEASE end in GOOD and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdover.lun.access import Standing
from holdover.lun.reservations import ReservationState
from holdover.scsi.nexus import ITNexus


@dataclass(frozen=True, slots=True)
class LegacyOutcome:
    """The result of a RESERVE or RELEASE.

    Attributes:
        holder: The I_T nexus for which the logical unit is reserved afterwards, or None.
        conflict: Whether the command ends in RESERVATION CONFLICT; otherwise it ends in GOOD.
    """

    holder: ITNexus | None
    conflict: bool = False


def reserve(state: ReservationState, holder: ITNexus | None, nexus: ITNexus) -> LegacyOutcome:
    """RESERVE(6) and RESERVE(10).

    Args:
        state: The persistent reservations of the logical unit.
        holder: The I_T nexus for which the logical unit is reserved by RESERVE, or None.
        nexus: The I_T nexus that sent the command.
    """
    if state.registrations:
        return LegacyOutcome(holder, conflict=not _has_access(state, nexus))
    if holder is not None and holder != nexus:
        return LegacyOutcome(holder, conflict=True)
    return LegacyOutcome(nexus)


def release(state: ReservationState, holder: ITNexus | None, nexus: ITNexus) -> LegacyOutcome:
    """RELEASE(6) and RELEASE(10). From a nexus without the reservation, it ends in GOOD and changes nothing
    (SPC-2 7.16).
    """
    if state.registrations:
        return LegacyOutcome(holder, conflict=not _has_access(state, nexus))
    return LegacyOutcome(None if holder == nexus else holder)


def _has_access(state: ReservationState, nexus: ITNexus) -> bool:
    standing = state.standing(nexus)
    if standing is Standing.REGISTERED:
        return state.reservation is not None and state.reservation.type.registrants_only
    return standing is Standing.HOLDER
