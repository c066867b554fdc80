"""What a handover knows of one LUN: the document that both hosts keep, send and put in their journals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from holdover.guest.scsi_block import Tracked

__all__ = ["UNREGISTERED", "MovingLun"]

UNREGISTERED: Final = Tracked()
"""What a guest has on a LUN on which it is not registered."""


@dataclass(frozen=True, slots=True)
class MovingLun:
    """One LUN of a guest on its way.

    Attributes:
        designator: By what both hosts know it ("naa.…", VPD page 83h), never a path of one of them.
        migrate_pr: Whether its registration and reservation move; where not, nothing is done to it.
        aptpl: Whether APTPL was active on the LUN when it was looked at last, whoever asked for it.
        tracked: What the guest has established.
        source_spare: A random key for the source's nexus, for when it needs one that nobody has.
        destination_spare: The same for the destination's nexus.
        fresh_spare: One more for the source's nexus, for when it has lost its registration: the LUN itself
            then tells, after a crash, that it had.
        source_nexuses: How many I_T nexuses one registration of the source makes; multipath makes several.
        destination_nexuses: The same on the destination.
        shared: The guest's key stands on a third nexus too.
        others: The keys of all third nexuses, in ascending order.
        standing: Keys that the destination may have put on its own nexus in this handover.
        prey: The key that the PREEMPT names, of the destination or, on the way back, of the source; 0: none.
        registered_there: Whether the destination's nexus had the guest's key when its gate was shut again.
        lost: The source has lost its registration, so the guest's is the destination's now.
        alarm: What was found to be other than it should be; empty: nothing.
    """

    designator: str
    migrate_pr: bool = True
    aptpl: bool = False
    tracked: Tracked = UNREGISTERED
    source_spare: int = 0
    destination_spare: int = 0
    fresh_spare: int = 0
    source_nexuses: int = 1
    destination_nexuses: int = 1
    shared: bool = False
    others: tuple[int, ...] = ()
    standing: tuple[int, ...] = ()
    prey: int = 0
    registered_there: bool = False
    lost: bool = False
    alarm: str = ""

    @property
    def as_registered(self) -> Tracked:
        """`tracked` as it is to be registered: the last REGISTER of any nexus decides on the LUN's APTPL, and
        what another node relies on is not turned off."""
        return self.tracked if self.tracked.aptpl or not self.aptpl else replace(self.tracked, aptpl=True)
