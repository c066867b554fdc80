"""What the agents and the LUNs of a run can do, by its seed alone: nothing else is drawn for it, so that the
other seeds stay what they are."""

from __future__ import annotations

from dataclasses import dataclass

_IN_TURN = 5


@dataclass(frozen=True, slots=True)
class Features:
    """What is there beside the usual.

    Attributes:
        early_commit: The agents may do a commit before it is on record.
        full_status: The LUNs have READ FULL STATUS.
    """

    early_commit: bool
    full_status: bool


def features(seed: int) -> Features:
    """Those of a seed: of five seeds one has early commits, and one lacks READ FULL STATUS."""
    return Features(early_commit=seed % _IN_TURN == 0, full_status=seed % _IN_TURN != _IN_TURN - 1)
