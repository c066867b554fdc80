"""What whoever moves a guest is told: each step on its way, and what has come of it."""

from __future__ import annotations

import msgspec

from holdover.handover.moving import MovingLun

__all__ = ["MigrateFailed", "MovedLun", "Outcome", "Progress"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that began, went on or ended.

    Attributes:
        phase: "check", "prepare", "migrate", "commit", "finish" or "rollback".
        action: What is done: "prepare", "commit", "copy memory until the guest has stopped", ...
        host: Where; empty for both.
        state: "begins", "goes on", "done" or "failed".
        at: Seconds since the start of the command.
        milliseconds: How long it took; 0 until it is done.
        detail: For people.
    """

    phase: str
    action: str
    host: str
    state: str
    at: float
    milliseconds: float = 0.0
    detail: str = ""


class MovedLun(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest has on one LUN, which has moved with it; all empty where ``migrate_pr`` is off.

    ``shared``: a third nexus has the guest's key. ``alarm``: what was found to be other than it should be.
    """

    designator: str
    migrate_pr: bool
    key: int
    type: int | None
    scope: int
    aptpl: bool
    shared: bool
    alarm: str

    @classmethod
    def of(cls, lun: MovingLun) -> MovedLun:
        """What a handover knows of a LUN at its end."""
        tracked = lun.tracked
        return cls(
            designator=lun.designator,
            migrate_pr=lun.migrate_pr,
            key=tracked.key,
            type=None if tracked.type is None else tracked.type.value,
            scope=tracked.scope,
            aptpl=tracked.aptpl,
            shared=lun.shared,
            alarm=lun.alarm,
        )


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A handover that was done.

    Attributes:
        devices: What was moved, LUN by LUN.
        milliseconds: The commit: from the request to its answer, while the guest stood still.
        standstill_ms: STOP on the source to RESUME on the destination; None without QMP.
        warnings: What needs somebody's eye, although the guest is where it should be.
    """

    guest: str
    handover: str
    source: str
    destination: str
    devices: tuple[MovedLun, ...]
    milliseconds: float
    standstill_ms: float | None = None
    warnings: tuple[str, ...] = ()


class MigrateFailed(Exception):
    """The guest was not moved.

    Attributes:
        reason: What failed where, on which LUN, and why.
        now: What is true now, and what to do next.
        in_doubt: True when it is not known where the guest's reservations are.
    """

    def __init__(self, reason: str, now: str, *, in_doubt: bool = False) -> None:
        super().__init__(f"{reason}\n{now}")
        self.reason = reason
        self.now = now
        self.in_doubt = in_doubt
