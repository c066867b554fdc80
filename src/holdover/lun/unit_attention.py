"""Unit attention conditions: one queue for each I_T nexus (SAM-5 5.14).

A new I_T nexus gets one POWER ON, RESET, OR BUS DEVICE RESET OCCURRED from the logical unit. Conditions of
this kind come before all others, because SAM-5 5.3.3 ranks them so.
"""

from __future__ import annotations

from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense

RESET_CONDITIONS = frozenset(
    {
        AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED,
        AdditionalSense.POWER_ON_OCCURRED,
        AdditionalSense.SCSI_BUS_RESET_OCCURRED,
        AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED,
        AdditionalSense.DEVICE_INTERNAL_RESET,
        AdditionalSense.I_T_NEXUS_LOSS_OCCURRED,
    }
)
"""The conditions that come before a RESERVATION CONFLICT; all others come after it (SAM-5 5.3.3)."""

_GREETING = AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED


class UnitAttentions:
    """The pending unit attention conditions of each I_T nexus.

    Args:
        greet: Whether a new I_T nexus gets the condition for power on.
        capacity: The most nexuses to remember. When there are more, the nexus that came first is forgotten;
            when it comes back, it is treated as new.
    """

    def __init__(self, greet: bool = True, capacity: int = 4096) -> None:
        self._greet = greet
        self._capacity = capacity
        self._queues: dict[ITNexus, list[AdditionalSense]] = {}

    def first(self, nexus: ITNexus) -> AdditionalSense | None:
        """The next condition to report to an I_T nexus, or None. The condition stays pending."""
        queue = self._queues.get(nexus)
        if queue is None:
            queue = self._meet(nexus)
        return queue[0] if queue else None

    def take(self, nexus: ITNexus) -> AdditionalSense | None:
        """The next condition to report to an I_T nexus, or None. The condition stops being pending."""
        queue = self._queues.get(nexus)
        if queue is None:
            queue = self._meet(nexus)
        return queue.pop(0) if queue else None

    def establish(self, nexus: ITNexus, condition: AdditionalSense) -> None:
        """Make a condition pending, unless it is pending already."""
        queue = self._queues.get(nexus)
        if queue is None:
            queue = self._meet(nexus)
        if condition not in queue:
            queue.append(condition)

    def establish_for_others(self, nexus: ITNexus, condition: AdditionalSense) -> None:
        """Make a condition pending for every known I_T nexus except one."""
        for each in self._queues:
            if each != nexus:
                self.establish(each, condition)

    def reset(self, condition: AdditionalSense) -> None:
        """Make a reset condition the only pending condition of every known I_T nexus (SAM-5 6.3)."""
        for queue in self._queues.values():
            queue[:] = [condition]

    def lose(self, nexus: ITNexus) -> None:
        """Make the loss of an I_T nexus its only pending condition (SAM-5 6.3.4).

        A nexus that is not known stays unknown.
        """
        if nexus in self._queues:
            self._queues[nexus] = [AdditionalSense.I_T_NEXUS_LOSS_OCCURRED]

    def _meet(self, nexus: ITNexus) -> list[AdditionalSense]:
        if len(self._queues) >= self._capacity:
            del self._queues[next(iter(self._queues))]
        queue = self._queues[nexus] = [_GREETING] if self._greet else []
        return queue
