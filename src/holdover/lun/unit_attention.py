"""Unit attention conditions: one queue for each I_T nexus (SAM-5 5.14).

An I_T nexus that the logical unit has not met yet owes it a POWER ON, RESET, OR BUS DEVICE RESET
OCCURRED, once. Conditions of that kind stand before all others, as SAM-5 5.3.3 ranks them.
"""

from __future__ import annotations

from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense

__all__ = ["RESET_CONDITIONS", "UnitAttentions"]

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
"""The conditions that are reported before a RESERVATION CONFLICT; all others after (SAM-5 5.3.3)."""

_GREETING = AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED


class UnitAttentions:
    """The conditions that are pending, by I_T nexus.

    Args:
        greet: Whether an I_T nexus met for the first time has the condition for power on.
        capacity: How many nexuses are remembered. The one met longest ago is forgotten beyond that, and
            greeted like a new one when it comes back.
    """

    def __init__(self, greet: bool = True, capacity: int = 4096) -> None:
        self._greet = greet
        self._capacity = capacity
        self._queues: dict[ITNexus, list[AdditionalSense]] = {}

    def first(self, nexus: ITNexus) -> AdditionalSense | None:
        """The condition to report next to an I_T nexus, which stays pending; None without one."""
        queue = self._queues.get(nexus)
        if queue is None:
            queue = self._meet(nexus)
        return queue[0] if queue else None

    def take(self, nexus: ITNexus) -> AdditionalSense | None:
        """The condition to report next to an I_T nexus, which is no longer pending; None without one."""
        queue = self._queues.get(nexus)
        if queue is None:
            queue = self._meet(nexus)
        return queue.pop(0) if queue else None

    def establish(self, nexus: ITNexus, condition: AdditionalSense) -> None:
        """Make a condition pending; one that is pending already is not repeated."""
        queue = self._queues.get(nexus)
        if queue is None:
            queue = self._meet(nexus)
        if condition not in queue:
            queue.append(condition)

    def establish_for_others(self, nexus: ITNexus, condition: AdditionalSense) -> None:
        """Make a condition pending for every I_T nexus that was met, but for one."""
        for each in self._queues:
            if each != nexus:
                self.establish(each, condition)

    def reset(self, condition: AdditionalSense) -> None:
        """Make a reset condition the only one pending, for every I_T nexus that was met (SAM-5 6.3)."""
        for queue in self._queues.values():
            queue[:] = [condition]

    def lose(self, nexus: ITNexus) -> None:
        """The I_T nexus is lost (SAM-5 6.3.4): that becomes the only condition pending for it. Whoever has
        not been met is still a stranger."""
        if nexus in self._queues:
            self._queues[nexus] = [AdditionalSense.I_T_NEXUS_LOSS_OCCURRED]

    def _meet(self, nexus: ITNexus) -> list[AdditionalSense]:
        if len(self._queues) >= self._capacity:
            del self._queues[next(iter(self._queues))]
        queue = self._queues[nexus] = [_GREETING] if self._greet else []
        return queue
