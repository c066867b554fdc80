"""How long the phases of a handover take on one host, and how the handover ends there.

A handover that goes on after a restart of the agent is counted when it ends. Its phases are counted from the
restart on, if they begin after it.
"""

from __future__ import annotations

from collections.abc import Callable

from holdover.handover.states import DestinationState, SourceState
from holdover.metrics.measurements import Measurements

_BEGINS: dict[SourceState | DestinationState, tuple[str, ...]] = {
    SourceState.CHECKING: ("prepare",),
    SourceState.LEAVING: ("commit",),
    SourceState.SETTLING: ("finish",),
    SourceState.CLOSING: ("rollback",),
    SourceState.UNDOING: ("rollback",),
    SourceState.RETRACTING: ("rollback",),
    SourceState.WEIGHING: ("rollback",),
    SourceState.ASSESSING: ("rollback",),
    DestinationState.PREEMPTING: ("commit",),
}
_ENDS: dict[SourceState | DestinationState, tuple[str, ...]] = {
    SourceState.PREPARED: ("prepare",),
    SourceState.COMMITTED: ("commit",),
    SourceState.GONE: ("finish",),
    SourceState.STAYED: ("rollback",),
    DestinationState.COMMITTED: ("commit",),
}
"""The phases that begin or end when a handover enters a state."""

_END = {
    SourceState.GONE: "moved",
    SourceState.STAYED: "stayed",
    DestinationState.HERE: "moved",
    DestinationState.RETURNED: "returned",
    DestinationState.TAKEN: "taken",
}


class Phases:
    """The phases of one handover on one host."""

    def __init__(self, measurements: Measurements, stopwatch: Callable[[], float]) -> None:
        """``stopwatch`` returns seconds that only grow."""
        self._measurements = measurements
        self._now = stopwatch
        self._began: dict[str, float] = {}
        self._counted: set[str] = set()

    def enter(self, state: SourceState | DestinationState) -> None:
        """The handover has entered ``state``."""
        now = self._now()
        role = "source" if isinstance(state, SourceState) else "destination"
        for phase in _BEGINS.get(state, ()):
            if phase in self._counted:
                continue  # a recheck of what was prepared
            self._began.setdefault(phase, now)
        for phase in _ENDS.get(state, ()):
            began = self._began.pop(phase, None)
            if began is not None:
                self._counted.add(phase)
                self._measurements.phases[role, phase].observe(now - began)
        end = _END.get(state)
        if end is not None and end not in self._counted:
            # A taken handover stays open, and enters its state again when the source comes back.
            self._counted.add(end)
            self._measurements.ends[role, end] += 1
