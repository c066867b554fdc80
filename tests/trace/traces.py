"""A small handover of two LUNs between hosts whose clocks differ."""

from __future__ import annotations

from holdover.trace.trace import HostTrace, Instant, Interval, Trace, assemble

LUNS = ("naa.1", "naa.2")
AHEAD = 100.0
"""Seconds by which the destination's clock is ahead."""


def _commands(host: str, lun: str, *spans: tuple[str, float, float]) -> list[Interval]:
    return [Interval(name, host, lun, began, ended) for name, began, ended in spans]


def source() -> HostTrace:
    intervals = [
        Interval("journal", "a", "", 10.0, 10.001),
        Interval("state checking", "a", "", 10.001, 10.011),
        Interval("work check", "a", "", 10.001, 10.011),
        Interval("message prepare", "a", "", 10.020, 10.040),
        Interval("state leaving", "a", "", 11.0, 11.001),
        Interval("message commit", "a", "", 11.001, 11.005),
    ]
    for lun in LUNS:
        intervals += _commands("a", lun, ("READ KEYS", 10.002, 10.004), ("READ KEYS", 10.005, 10.010))
    events = (Instant("STOP", "a", 10.999), Instant("MIGRATION", "a", 11.006, "completed"))
    return HostTrace("a", tuple(intervals), events)


def destination(ahead: float = AHEAD) -> HostTrace:
    intervals = [
        Interval("state registering", "b", "", 10.022 + ahead, 10.038 + ahead),
        Interval("work register", "b", "", 10.022 + ahead, 10.038 + ahead),
        Interval("state preempting", "b", "", 11.002 + ahead, 11.004 + ahead),
        Interval("work preempt", "b", "", 11.002 + ahead, 11.004 + ahead),
    ]
    for number, lun in enumerate(LUNS):
        intervals += _commands("b", lun, ("PREEMPT", 11.002 + ahead, 11.003 + ahead + number / 2000))
    return HostTrace("b", tuple(intervals), (Instant("RESUME", "b", 11.010 + ahead),))


def driver() -> HostTrace:
    return HostTrace(
        "holdover migrate",
        (
            Interval("prepare", "holdover migrate", "", 9.999, 10.060, step=True),
            Interval("commit", "holdover migrate", "", 10.9995, 11.007, step=True),
        ),
    )


def handover(ahead: float = AHEAD) -> Trace:
    return assemble("db1", "h1", source(), destination(ahead), driver())
