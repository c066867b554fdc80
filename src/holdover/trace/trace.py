"""The trace of one handover: what took how long, on one time axis.

Each host's spans carry its own clock. The source's span of a message encloses all that the destination did
because of it, and that of a request the source's work: the shift between two clocks that lets every inner
span lie within its outer one is known to within what a message takes on its way. `assemble` shifts all to
the source's clock, and not at all where the clocks agree as far as can be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median

__all__ = ["Instant", "Interval", "Kind", "Part", "Shift", "Trace", "assemble", "kind_of"]


class Kind(StrEnum):
    """What an interval is."""

    STEP = "step"
    """Of whoever drives the migration."""
    STATE = "state"
    """A state of the handover, while something was done in it."""
    WORK = "work"
    """Work on all LUNs."""
    MESSAGE = "message"
    """From one agent to the other, and its answer."""
    JOURNAL = "journal"
    """A transaction."""
    COMMAND = "command"
    """One round trip to a LUN."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Something that took its time.

    Attributes:
        name: "state prepared", "work preempt", "PREEMPT".
        host: Whose.
        lun: The LUN's designator; empty for all.
        began, ended: Seconds since the epoch, by the host's clock or, in a `Trace`, by the source's.
        detail: More for people.
    """

    name: str
    host: str
    lun: str
    began: float
    ended: float
    detail: str = ""
    step: bool = False

    @property
    def kind(self) -> Kind:
        """What it is."""
        return Kind.STEP if self.step else kind_of(self.name, self.lun)

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) * 1000


@dataclass(frozen=True, slots=True)
class Instant:
    """Something that happened at once, as QEMU's events do; ``at`` as in `Interval`."""

    name: str
    host: str
    at: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What one host tells, by its own clock."""

    host: str
    intervals: tuple[Interval, ...] = ()
    instants: tuple[Instant, ...] = ()


@dataclass(frozen=True, slots=True)
class Shift:
    """What was added to a host's times.

    Attributes:
        host: Whose.
        seconds: That much; 0 where its clock agrees with the source's.
        within: How far this may be off, seconds; None where nothing tells how the clocks differ.
    """

    host: str
    seconds: float
    within: float | None


@dataclass(frozen=True, slots=True)
class Trace:
    """A handover; all times by the source's clock.

    Attributes:
        guest, handover: The guest's name, the handover's identity.
        source, destination: The hosts.
        driver: What drove the migration, as a host of its own; empty if that is not known.
        intervals, instants: What took how long, what happened when; in the order of their beginning.
        shifts: What was added to the times of the others.
    """

    guest: str
    handover: str
    source: str
    destination: str
    driver: str
    intervals: tuple[Interval, ...]
    instants: tuple[Instant, ...]
    shifts: tuple[Shift, ...]

    @property
    def began(self) -> float:
        """When the first thing began; 0 in an empty trace."""
        return min(self._times(), default=0.0)

    @property
    def ended(self) -> float:
        """When the last thing ended."""
        return max(self._times(), default=0.0)

    def _times(self) -> Iterable[float]:
        for interval in self.intervals:
            yield interval.began
            yield interval.ended
        for instant in self.instants:
            yield instant.at

    @property
    def standstill(self) -> tuple[float, float] | None:
        """From the source's STOP to the destination's RESUME, where QEMU's events are known."""
        stops = [each.at for each in self.instants if (each.name, each.host) == ("STOP", self.source)]
        resumes = [
            each.at for each in self.instants if (each.name, each.host) == ("RESUME", self.destination)
        ]
        return (stops[-1], resumes[-1]) if stops and resumes and stops[-1] < resumes[-1] else None

    @property
    def luns(self) -> tuple[str, ...]:
        """The designators, sorted."""
        return tuple(sorted({each.lun for each in self.intervals if each.lun}))


def kind_of(name: str, lun: str) -> Kind:
    """What a span of an agent is, by its name."""
    first = name.split(" ", 1)[0]
    if first in ("state", "message", "journal"):
        return Kind(first)
    return Kind.COMMAND if lun else Kind.WORK


_ANSWERS_MESSAGE = {
    "message prepare": "state registering",
    "message commit": "state preempting",
    "message close": "state closing",
    "message return": "state returning",
    "message finish": "state verifying",
}
_ANSWERS_REQUEST = {"prepare": "state checking", "commit": "state leaving", "finish": "state settling"}


def assemble(guest: str, handover: str, source: Part, destination: Part, driver: Part | None = None) -> Trace:
    """All parts on the source's clock."""
    parts, shifts = [source], []
    for part, outer, inner, encloses in (
        (destination, source, destination, _ANSWERS_MESSAGE),
        (driver, driver, source, _ANSWERS_REQUEST),
    ):
        if part is None or outer is None:
            continue
        low, high = _bounds(outer.intervals, inner.intervals, encloses)
        if part is driver:
            # found is what lets the source's times lie within the driver's
            low, high = [-each for each in high], [-each for each in low]
        shift = _shift(part.host, low, high)
        shifts.append(shift)
        parts.append(_shifted(part, shift.seconds))
    return Trace(
        guest,
        handover,
        source.host,
        destination.host,
        driver.host if driver is not None else "",
        tuple(sorted((each for part in parts for each in part.intervals), key=_order)),
        tuple(sorted((each for part in parts for each in part.instants), key=lambda each: each.at)),
        tuple(shifts),
    )


def _order(interval: Interval) -> tuple[float, float]:
    return interval.began, -interval.ended


def _bounds(
    outer: Sequence[Interval], inner: Sequence[Interval], encloses: Mapping[str, str]
) -> tuple[list[float], list[float]]:
    """What at least and at most is to be added to the inner times, pair by pair."""
    low, high = [], []
    for name, within in encloses.items():
        outers = [each for each in outer if each.name == name]
        inners = [each for each in inner if each.name == within]
        if len(outers) != len(inners):
            continue  # one was lost, or done twice: which belong together cannot be told
        for around, inside in zip(outers, inners, strict=True):
            low.append(around.began - inside.began)
            high.append(around.ended - inside.ended)
    return low, high


def _shift(host: str, low: Sequence[float], high: Sequence[float]) -> Shift:
    if not low:
        return Shift(host, 0.0, None)
    least, most = max(low), min(high)
    if least > most:
        # a clock that was set meanwhile: no shift fits all
        middles = [(one + other) / 2 for one, other in zip(low, high, strict=True)]
        return Shift(host, median(middles), max(middles) - min(middles))
    within = (most - least) / 2
    return Shift(host, 0.0 if least <= 0 <= most else (least + most) / 2, within)


def _shifted(part: Part, seconds: float) -> Part:
    return Part(
        part.host,
        tuple(
            replace(each, began=each.began + seconds, ended=each.ended + seconds) for each in part.intervals
        ),
        tuple(replace(each, at=each.at + seconds) for each in part.instants),
    )
