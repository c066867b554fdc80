"""The faults of a target at one time: numbered, counted, and asked about every command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from holdover.faults.fault import Effect, Fault, When
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status

__all__ = ["ArmedFault", "ArmedFaults", "Strike"]


@dataclass(frozen=True, slots=True)
class ArmedFault:
    """A fault in force.

    Attributes:
        number: By which it is removed; never given twice.
        fault: What it is.
        fitted: How many commands it fitted so far.
        struck: How many of these it struck.
    """

    number: int
    fault: Fault
    fitted: int = 0
    struck: int = 0

    @property
    def spent(self) -> bool:
        """Whether it has struck as often as it may."""
        return self.fault.count is not None and self.struck >= self.fault.count

    def meet(self, chance: float) -> tuple[ArmedFault, bool]:
        """The fault after one command that it fits, and whether it strikes that command.

        Args:
            chance: A random number, from 0 up to but not 1.
        """
        fitted = self.fitted + 1
        strikes = not self.spent and fitted > self.fault.after and chance < self.fault.probability
        return replace(self, fitted=fitted, struck=self.struck + strikes), strikes


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens to one command: the faults that strike it, by their numbers."""

    faults: tuple[ArmedFault, ...]

    def latency(self, when: When) -> float:
        """Seconds that it takes longer, before or after it is carried out."""
        return sum(each.fault.latency for each in self.faults if each.fault.when is when) / 1_000_000

    def has(self, effect: Effect, when: When = When.BEFORE) -> bool:
        """Whether this happens to it."""
        return any(each.fault.effect is effect and each.fault.when is when for each in self.faults)

    @property
    def loses_response(self) -> bool:
        """Whether its answer is never sent."""
        return any(each.fault.effect is Effect.LOSE_RESPONSE for each in self.faults)

    @property
    def status(self) -> Status | None:
        """With what it is answered instead of being carried out, or None."""
        return next((each.fault.status for each in self.faults if each.fault.status is not None), None)


class ArmedFaults:
    """The faults in force.

    Args:
        chance: Gives random numbers, from 0 up to but not 1.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._armed: dict[int, ArmedFault] = {}
        self._last = 0

    @property
    def armed(self) -> tuple[ArmedFault, ...]:
        """All of them, also those that are spent, in the order in which they came."""
        return tuple(self._armed.values())

    def add(self, fault: Fault) -> ArmedFault:
        """Put a fault in force."""
        self._last += 1
        armed = self._armed[self._last] = ArmedFault(self._last, fault)
        return armed

    def remove(self, number: int) -> bool:
        """Take a fault out of force; False where there is none with that number."""
        return self._armed.pop(number, None) is not None

    def clear(self) -> None:
        """Take all faults out of force."""
        self._armed.clear()

    def may_strike(self, lun: int, nexus: ITNexus, command: Command) -> bool:
        """Whether `strike` has anything to decide about a command. Changes nothing."""
        # Every command comes by here, and mostly there is no fault at all.
        return bool(self._armed) and any(
            not each.spent and each.fault.fits(lun, nexus, command) for each in self._armed.values()
        )

    def strike(self, lun: int, nexus: ITNexus, command: Command) -> Strike | None:
        """Decide what happens to a command, and count it; None where nothing does."""
        struck = []
        for number, each in list(self._armed.items()):
            if each.spent or not each.fault.fits(lun, nexus, command):
                continue
            self._armed[number], strikes = each.meet(self._chance())
            if strikes:
                struck.append(self._armed[number])
        return Strike(tuple(struck)) if struck else None
