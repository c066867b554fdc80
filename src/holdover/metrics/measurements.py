"""What an agent measures while it works. Everything else is read when somebody asks for the metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from holdover.metrics.durations import COMMAND_BOUNDS, PHASE_BOUNDS, Durations


def _of_commands() -> Durations:
    return Durations(COMMAND_BOUNDS)


def _of_phases() -> Durations:
    return Durations(PHASE_BOUNDS)


@dataclass(frozen=True, slots=True)
class Measurements:
    """The counters and histograms of one agent, since its process began.

    Attributes:
        own_commands: The agent's own commands to LUNs.
        guest_reservations: The PERSISTENT RESERVE commands of guests to LUNs whose reservations move.
        helper_commands: Commands through the helper's sockets, from their arrival to their answer.
        phases: Of handovers, by role and phase.
        standstills: Of guests in migrations that agents drive, from STOP to RESUME of QEMU.
        ends: The handovers that have ended, by role and end.
        refused: What was refused, by what it was.
    """

    own_commands: Durations = field(default_factory=_of_commands)
    guest_reservations: Durations = field(default_factory=_of_commands)
    helper_commands: Durations = field(default_factory=_of_commands)
    phases: dict[tuple[str, str], Durations] = field(
        default_factory=lambda: {
            ("source", "prepare"): _of_phases(),
            ("source", "commit"): _of_phases(),
            ("source", "finish"): _of_phases(),
            ("source", "rollback"): _of_phases(),
            ("destination", "commit"): _of_phases(),
        }
    )
    standstills: Durations = field(default_factory=_of_phases)
    ends: Counter[tuple[str, str]] = field(
        default_factory=lambda: Counter(
            {("source", "moved"): 0, ("source", "stayed"): 0}
            | {("destination", "moved"): 0, ("destination", "returned"): 0, ("destination", "taken"): 0}
        )
    )
    refused: Counter[str] = field(
        default_factory=lambda: Counter({"handover": 0, "migration": 0, "request": 0})
    )
