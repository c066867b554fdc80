"""The phases of a migration: what happens in each, what follows, and what each means to people.

One table says all of it. The order keeps the guest safe:

- The destination's QEMU never runs the guest by itself. It does so when the source's agent says so, which is
  after the commit. Until then there is a way back.
- If something fails before the request to commit, the guest first continues on the source, and then the
  handover is rolled back. If something fails later, the reservations first come back, and then the guest
  continues.
- As soon as the destination may have been told to run the guest, the source's QEMU runs the guest again only
  if the destination's QEMU has not run it and has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Phase(Enum):
    """A phase of a migration."""

    CHECKING = "checking"
    PREPARING = "preparing"
    OPENING = "opening"
    COPYING = "copying"
    ASCERTAINING = "ascertaining"
    SWITCHING = "switching"
    STARTING = "starting"
    FINISHING = "finishing"
    FETCHING = "fetching"
    MOVED = "moved"
    CANCELLING = "cancelling"
    WITHDRAWING = "withdrawing"
    ENDING = "ending"
    RETURNING = "returning"
    RESUMING = "resuming"
    CLEARING = "clearing"
    STAYED = "stayed"


class Happening(Enum):
    """What may happen to a migration in a phase."""

    DONE = "done"
    """The work of the phase was done."""
    FAILED = "failed"
    """The work was not done, and cannot be done."""
    UNREACHED = "unreached"
    """The work was not done, or it is not known whether it was; it is tried again."""
    GONE = "gone"
    """A QEMU that the phase needs has ended, and has not run the guest."""
    LOST = "lost"
    """The destination's QEMU has ended, and may have run the guest."""
    TAKEN = "taken"
    """The destination has taken the reservations for itself, since an operator said so."""
    BEFORE = "before"
    """The copy of the memory is under way, or has not begun."""
    CANCEL = "cancel"
    """Somebody wants the guest to stay."""
    RESTARTED = "restarted"
    """The agent was restarted in this phase."""


class Where(Enum):
    """Where the guest is while a phase lasts."""

    SOURCE = "source"
    NOWHERE = "nowhere"
    """It has stopped on the source, and the destination has not run it."""
    UNKNOWN = "unknown"
    DESTINATION = "destination"


_P, _H = Phase, Happening


@dataclass(frozen=True, slots=True)
class PhaseSpec:
    """A phase.

    Attributes:
        follows: The next phase, by event. All other events are not allowed in this phase. A phase may follow
            itself, to try again.
        durable: Whether the phase must be on record before its work begins. While the guest stands still no
            phase is: `ASCERTAINING` finds out after a restart what was not on record.
        where: Where the guest is.
        now: What is true now.
        waits: What is waited for, or what comes next.
    """

    where: Where
    now: str
    waits: str = ""
    durable: bool = True
    follows: Mapping[Happening, Phase] = field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether this is a last phase."""
        return not self.follows

    @property
    def cancellable(self) -> bool:
        """Whether the migration can still be cancelled, so that the guest stays."""
        return Happening.CANCEL in self.follows


_RUNS = "guest {guest} {runs} on {source} with its reservations"
_STANDS = "guest {guest} stands still while it goes from {source} to {destination}"
_THERE = "guest {guest} {runs} on {destination} with its reservations"
_AGAIN = "the agent keeps trying; remove the cause shown above"
_SEE_THERE = (
    "{destination} is asked again and again; see to its agent. If {destination} is dead, fence it, then: "
    "holdover handover rollback {guest} --alone"
)

PHASES: Mapping[Phase, PhaseSpec] = {
    _P.CHECKING: PhaseSpec(
        Where.SOURCE,
        _RUNS,
        "both hosts and both QEMUs are being checked",
        durable=False,
        follows={_H.DONE: _P.PREPARING, _H.FAILED: _P.STAYED, _H.CANCEL: _P.STAYED, _H.RESTARTED: _P.STAYED},
    ),
    _P.PREPARING: PhaseSpec(
        Where.SOURCE,
        _RUNS,
        "its keys are being registered on {destination}",
        follows={
            _H.DONE: _P.OPENING,
            _H.FAILED: _P.WITHDRAWING,
            _H.CANCEL: _P.WITHDRAWING,
            _H.RESTARTED: _P.PREPARING,
        },
    ),
    _P.OPENING: PhaseSpec(
        Where.SOURCE,
        _RUNS,
        "QEMU on {destination} is told to listen",
        follows={
            _H.DONE: _P.COPYING,
            _H.FAILED: _P.WITHDRAWING,
            _H.CANCEL: _P.WITHDRAWING,
            _H.RESTARTED: _P.OPENING,
        },
    ),
    _P.COPYING: PhaseSpec(
        Where.SOURCE,
        _RUNS,
        "its memory is being copied to {destination}",
        follows={
            _H.DONE: _P.SWITCHING,
            _H.FAILED: _P.CANCELLING,
            _H.GONE: _P.CANCELLING,
            _H.CANCEL: _P.CANCELLING,
            _H.RESTARTED: _P.ASCERTAINING,
        },
    ),
    _P.ASCERTAINING: PhaseSpec(
        Where.UNKNOWN,
        "the agent of {source} was restarted while guest {guest} was being copied to {destination}",
        "both QEMUs are asked what is true",
        follows={
            _H.BEFORE: _P.COPYING,
            _H.DONE: _P.SWITCHING,
            _H.FAILED: _P.CANCELLING,
            _H.GONE: _P.SWITCHING,
            _H.UNREACHED: _P.ASCERTAINING,
            _H.RESTARTED: _P.ASCERTAINING,
        },
    ),
    _P.SWITCHING: PhaseSpec(
        Where.NOWHERE,
        _STANDS,
        "its reservations and the rest of its memory are on their way",
        durable=False,
        follows={
            _H.DONE: _P.STARTING,
            _H.FAILED: _P.RETURNING,
            _H.GONE: _P.RETURNING,
            _H.LOST: _P.FINISHING,
            _H.UNREACHED: _P.SWITCHING,
            _H.RESTARTED: _P.ASCERTAINING,
        },
    ),
    _P.STARTING: PhaseSpec(
        Where.UNKNOWN,
        "guest {guest} and its reservations are on {destination}, where it is told to run",
        _SEE_THERE,
        durable=False,
        follows={
            _H.DONE: _P.FINISHING,
            _H.UNREACHED: _P.STARTING,
            _H.FAILED: _P.ENDING,
            _H.GONE: _P.RETURNING,
            _H.LOST: _P.FINISHING,
            _H.RESTARTED: _P.STARTING,
        },
    ),
    _P.FINISHING: PhaseSpec(
        Where.DESTINATION,
        _THERE,
        _AGAIN,
        durable=False,
        follows={
            _H.DONE: _P.FETCHING,
            _H.FAILED: _P.FETCHING,
            _H.UNREACHED: _P.FINISHING,
            _H.RESTARTED: _P.FINISHING,
        },
    ),
    _P.FETCHING: PhaseSpec(
        Where.DESTINATION,
        _THERE,
        "the rest of its memory is fetched from {source}: neither QEMU must end before that",
        follows={
            _H.DONE: _P.MOVED,
            _H.GONE: _P.MOVED,
            _H.LOST: _P.MOVED,
            _H.UNREACHED: _P.FETCHING,
            _H.RESTARTED: _P.FETCHING,
        },
    ),
    _P.MOVED: PhaseSpec(Where.DESTINATION, _THERE, "end QEMU on {source}, which the guest has left"),
    _P.CANCELLING: PhaseSpec(
        Where.SOURCE,
        _RUNS,
        "the copy is being cancelled; " + _AGAIN,
        follows={
            _H.DONE: _P.WITHDRAWING,
            _H.GONE: _P.WITHDRAWING,
            _H.UNREACHED: _P.CANCELLING,
            _H.RESTARTED: _P.CANCELLING,
        },
    ),
    _P.WITHDRAWING: PhaseSpec(
        Where.SOURCE,
        _RUNS,
        "its registration is being removed from {destination}; " + _AGAIN,
        follows={
            _H.DONE: _P.CLEARING,
            _H.UNREACHED: _P.WITHDRAWING,
            _H.RESTARTED: _P.WITHDRAWING,
        },
    ),
    _P.ENDING: PhaseSpec(
        Where.UNKNOWN,
        "guest {guest} was sent to {destination}, whose QEMU refuses to run it and is to end first",
        _SEE_THERE,
        follows={
            _H.DONE: _P.RETURNING,
            _H.LOST: _P.FINISHING,
            _H.UNREACHED: _P.ENDING,
            _H.RESTARTED: _P.ENDING,
        },
    ),
    _P.RETURNING: PhaseSpec(
        Where.NOWHERE,
        "guest {guest} stands still on {source} until its reservations are back there; nothing is lost",
        _SEE_THERE,
        follows={
            _H.DONE: _P.RESUMING,
            _H.TAKEN: _P.MOVED,
            _H.UNREACHED: _P.RETURNING,
            _H.RESTARTED: _P.RETURNING,
        },
    ),
    _P.RESUMING: PhaseSpec(
        Where.NOWHERE,
        "guest {guest}'s reservations are on {source}, and its QEMU there is told to run it",
        _AGAIN,
        follows={
            _H.DONE: _P.CLEARING,
            _H.GONE: _P.CLEARING,
            _H.UNREACHED: _P.RESUMING,
            _H.RESTARTED: _P.RESUMING,
        },
    ),
    _P.CLEARING: PhaseSpec(
        Where.SOURCE,
        _RUNS,
        "the QEMU that waited on {destination} is being ended",
        follows={_H.DONE: _P.STAYED, _H.FAILED: _P.STAYED, _H.RESTARTED: _P.CLEARING},
    ),
    _P.STAYED: PhaseSpec(Where.SOURCE, _RUNS),
}
"""What each phase does, what follows it, and what it means."""
