"""Statistics of a few measurements: the median, and how far the measurements lie apart. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and the greatest of ``count`` figures."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """The spread of at least one figure.

        Raises:
            ValueError: There is no figure.
        """
        ordered = sorted(figures)
        if not ordered:
            raise ValueError("no figure to take a median of")
        return cls(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))


def uncertainty(figures: Sequence[float]) -> float:
    """How far the median may be off, about: half the distance between the figures that are half the square
    root of their number before and behind the median in order. Infinite for fewer than two figures.
    """
    ordered = sorted(figures)
    if len(ordered) < 2:
        return math.inf
    middle, aside = (len(ordered) - 1) / 2, math.sqrt(len(ordered)) / 2
    low, high = max(0, math.floor(middle - aside)), min(len(ordered) - 1, math.ceil(middle + aside))
    return (ordered[high] - ordered[low]) / 2


def differences(minuends: Sequence[float], subtrahends: Sequence[float]) -> list[float]:
    """The differences of each round, so that a drift of the machine from round to round cancels out."""
    return [more - less for more, less in zip(minuends, subtrahends, strict=False)]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """The median of the rounds' own ratios; None if no round has both figures."""
    ratios = [over / under for over, under in zip(numerators, denominators, strict=False) if under != 0]
    return statistics.median(ratios) if ratios else None
