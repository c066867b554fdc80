"""The trace of one handover: what took how long, on one time axis.

Each host measures its spans by its own clock. The source's span of a message encloses everything that the
destination does for this message. The driver's span of a request encloses everything that the source does for
this request. So the shift between two clocks is the one that puts every inner span within its outer span. The
shift is known to within the time that a message travels. `assemble` shifts all times to the source's clock.
It shifts nothing when the clocks agree as far as can be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median


class IntervalKind(StrEnum):
    """The kind of an interval."""

    STEP = "step"
    """A step of the driver of the migration."""
    STATE = "state"
    """A state of the handover, while an agent worked in it."""
    WORK = "work"
    """Work on all LUNs."""
    MESSAGE = "message"
    """A message from one agent to the other, and its answer."""
    JOURNAL = "journal"
    """A transaction of the journal."""
    COMMAND = "command"
    """One round trip to a LUN."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An activity with a beginning and an end.

    Attributes:
        name: For example "state prepared", "work preempt", "PREEMPT".
        host: The host of the activity.
        lun: The LUN's designator; empty for an activity on all LUNs.
        began, ended: Seconds since the epoch: by the host's clock or, in a `Trace`, by the source's clock.
        detail: More information for people.
        step: Whether this is a step of the driver of the migration.
    """

    name: str
    host: str
    lun: str
    began: float
    ended: float
    detail: str = ""
    step: bool = False

    @property
    def kind(self) -> IntervalKind:
        """The kind of the interval."""
        return IntervalKind.STEP if self.step else kind_of(self.name, self.lun)

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) * 1000


@dataclass(frozen=True, slots=True)
class Instant:
    """An event without a duration, such as an event of QEMU. ``at`` is a time as in `Interval`."""

    name: str
    host: str
    at: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HostTrace:
    """The intervals and events that one host reports, by its own clock."""

    host: str
    intervals: tuple[Interval, ...] = ()
    instants: tuple[Instant, ...] = ()


@dataclass(frozen=True, slots=True)
class Shift:
    """The time that was added to a host's times.

    Attributes:
        host: The host.
        seconds: The added seconds; 0 when the host's clock agrees with the source's clock.
        within: The error of `seconds`, in seconds; None when it is not known how the clocks differ.
    """

    host: str
    seconds: float
    within: float | None


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace of a handover; all times are by the source's clock.

    Attributes:
        guest, handover_id: The guest's name, and the id of the handover.
        source, destination: The names of the hosts.
        driver: The program that drove the migration, named like a host; empty when it is not known.
        intervals, instants: The activities and the events, in the order of their beginning.
        shifts: The time that was added to the times of each other host.
    """

    guest: str
    handover_id: str
    source: str
    destination: str
    driver: str
    intervals: tuple[Interval, ...]
    instants: tuple[Instant, ...]
    shifts: tuple[Shift, ...]

    @property
    def began(self) -> float:
        """The time of the first beginning or event; 0 in an empty trace."""
        return min(self._times(), default=0.0)

    @property
    def ended(self) -> float:
        """The time of the last end or event; 0 in an empty trace."""
        return max(self._times(), default=0.0)

    def _times(self) -> Iterable[float]:
        for interval in self.intervals:
            yield interval.began
            yield interval.ended
        for instant in self.instants:
            yield instant.at

    @property
    def standstill(self) -> tuple[float, float] | None:
        """The times of the source's STOP and the destination's RESUME; None when they are not known."""
        stops = [each.at for each in self.instants if (each.name, each.host) == ("STOP", self.source)]
        resumes = [
            each.at for each in self.instants if (each.name, each.host) == ("RESUME", self.destination)
        ]
        return (stops[-1], resumes[-1]) if stops and resumes and stops[-1] < resumes[-1] else None

    @property
    def luns(self) -> tuple[str, ...]:
        """The designators of all LUNs, sorted."""
        return tuple(sorted({each.lun for each in self.intervals if each.lun}))


def kind_of(name: str, lun: str) -> IntervalKind:
    """The kind of an agent's span, by the span's name and LUN."""
    first = name.split(" ", 1)[0]
    if first in ("state", "message", "journal"):
        return IntervalKind(first)
    return IntervalKind.COMMAND if lun else IntervalKind.WORK


_ANSWERS_MESSAGE = {
    "message prepare": "state registering",
    "message commit": "state preempting",
    "message close": "state closing",
    "message return": "state returning",
    "message finish": "state verifying",
}
_ANSWERS_REQUEST = {"prepare": "state checking", "commit": "state leaving", "finish": "state settling"}


def assemble(
    guest: str, handover_id: str, source: HostTrace, destination: HostTrace, driver: HostTrace | None = None
) -> Trace:
    """The trace that has the times of all parts shifted to the source's clock."""
    parts, shifts = [source], []
    for part, outer, inner, encloses in (
        (destination, source, destination, _ANSWERS_MESSAGE),
        (driver, driver, source, _ANSWERS_REQUEST),
    ):
        if part is None or outer is None:
            continue
        low, high = _bounds(outer.intervals, inner.intervals, encloses)
        if part is driver:
            # These bounds shift the source's times into the driver's: the driver's shift is the opposite.
            low, high = [-each for each in high], [-each for each in low]
        shift = _shift(part.host, low, high)
        shifts.append(shift)
        parts.append(_shifted(part, shift.seconds))
    return Trace(
        guest,
        handover_id,
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
    """The least and the most time to add to the inner times, for each pair of an outer and an inner span."""
    low, high = [], []
    for name, within in encloses.items():
        outers = [each for each in outer if each.name == name]
        inners = [each for each in inner if each.name == within]
        if len(outers) != len(inners):
            continue  # a span was lost, or a message was repeated, so the pairs are not known
        for around, inside in zip(outers, inners, strict=True):
            low.append(around.began - inside.began)
            high.append(around.ended - inside.ended)
    return low, high


def _shift(host: str, low: Sequence[float], high: Sequence[float]) -> Shift:
    if not low:
        return Shift(host, 0.0, None)
    least, most = max(low), min(high)
    if least > most:
        # Somebody set a clock in the meantime, so no shift fits all pairs.
        middles = [(one + other) / 2 for one, other in zip(low, high, strict=True)]
        return Shift(host, median(middles), max(middles) - min(middles))
    within = (most - least) / 2
    return Shift(host, 0.0 if least <= 0 <= most else (least + most) / 2, within)


def _shifted(part: HostTrace, seconds: float) -> HostTrace:
    return HostTrace(
        part.host,
        tuple(
            replace(each, began=each.began + seconds, ended=each.ended + seconds) for each in part.intervals
        ),
        tuple(replace(each, at=each.at + seconds) for each in part.instants),
    )
