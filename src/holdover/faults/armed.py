"""The faults that are in force on a target. They have numbers and counters, and decide on each command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from holdover.faults.fault import Effect, Fault, When
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status


@dataclass(frozen=True, slots=True)
class ArmedFault:
    """A fault in force.

    Attributes:
        number: The number that removes the fault; no number is used twice.
        fault: The fault.
        fitted: The number of commands so far that the fault fits.
        struck: The number of these commands that the fault struck.
    """

    number: int
    fault: Fault
    fitted: int = 0
    struck: int = 0

    @property
    def spent(self) -> bool:
        """Whether the fault has struck as often as its count allows."""
        return self.fault.count is not None and self.struck >= self.fault.count

    def match(self, chance: float) -> tuple[ArmedFault, bool]:
        """The fault after one command that it fits, and whether the fault strikes this command.

        Args:
            chance: A random number, at least 0 and less than 1.
        """
        fitted = self.fitted + 1
        strikes = not self.spent and fitted > self.fault.after and chance < self.fault.probability
        return replace(self, fitted=fitted, struck=self.struck + strikes), strikes


@dataclass(frozen=True, slots=True)
class Strike:
    """The faults that strike one command, in the order of their numbers."""

    faults: tuple[ArmedFault, ...]

    def latency(self, when: When) -> float:
        """The seconds of delay before or after the command is carried out."""
        return sum(each.fault.latency for each in self.faults if each.fault.when is when) / 1_000_000

    def has(self, effect: Effect, when: When = When.BEFORE) -> bool:
        """Whether a fault has this effect, before or after the command."""
        return any(each.fault.effect is effect and each.fault.when is when for each in self.faults)

    @property
    def loses_response(self) -> bool:
        """Whether the command's answer is never sent."""
        return any(each.fault.effect is Effect.LOSE_RESPONSE for each in self.faults)

    @property
    def status(self) -> Status | None:
        """The status that answers the command in place of carrying it out; None when no fault gives one."""
        return next((each.fault.status for each in self.faults if each.fault.status is not None), None)


class ArmedFaults:
    """The faults in force on a target.

    Args:
        chance: Returns random numbers, at least 0 and less than 1.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._armed: dict[int, ArmedFault] = {}
        self._last = 0

    @property
    def armed(self) -> tuple[ArmedFault, ...]:
        """All faults, spent ones too, in the order in which they were added."""
        return tuple(self._armed.values())

    def add(self, fault: Fault) -> ArmedFault:
        """Put a fault in force."""
        self._last += 1
        armed = self._armed[self._last] = ArmedFault(self._last, fault)
        return armed

    def remove(self, number: int) -> bool:
        """Take a fault out of force. Returns False when no fault has this number."""
        return self._armed.pop(number, None) is not None

    def clear(self) -> None:
        """Take all faults out of force."""
        self._armed.clear()

    def may_strike(self, lun: int, nexus: ITNexus, command: Command) -> bool:
        """Whether `strike` has something to decide about a command. Changes nothing."""
        # Every command calls this, and mostly there is no fault at all.
        return bool(self._armed) and any(
            not each.spent and each.fault.fits(lun, nexus, command) for each in self._armed.values()
        )

    def strike(self, lun: int, nexus: ITNexus, command: Command) -> Strike | None:
        """Count a command, and decide which faults strike it; None when no fault does."""
        struck = []
        for number, each in list(self._armed.items()):
            if each.spent or not each.fault.fits(lun, nexus, command):
                continue
            self._armed[number], strikes = each.match(self._chance())
            if strikes:
                struck.append(self._armed[number])
        return Strike(tuple(struck)) if struck else None
