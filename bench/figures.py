"""What is made of a handful of measurements: a median and how far they lie apart. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Spread", "differences", "median_ratio"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and the greatest of ``count`` figures."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """Of at least one figure.

        Raises:
            ValueError: There is none.
        """
        ordered = sorted(figures)
        if not ordered:
            raise ValueError("no figure to take a median of")
        return cls(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))


def differences(minuends: Sequence[float], subtrahends: Sequence[float]) -> list[float]:
    """Round by round, so that a drift of the machine from round to round cancels out."""
    return [more - less for more, less in zip(minuends, subtrahends, strict=False)]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """The median of the rounds' own ratios; None where there is no round of both."""
    ratios = [over / under for over, under in zip(numerators, denominators, strict=False) if under != 0]
    return statistics.median(ratios) if ratios else None
