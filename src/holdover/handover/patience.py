"""How long a host waits before it retries, gives up or rechecks. All times are in seconds; the caller gives
them.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdover.handover.protocol import HandoverEvent, Source
from holdover.handover.states import Event, SourceState

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


@dataclass(slots=True)
class Patience:
    """The retry times of one handover in one state.

    Attributes:
        give_up: The seconds for which to ask a destination that does not answer.
    """

    give_up: float
    _pause: float = _FIRST_PAUSE
    _unreached_since: float | None = None

    def renew(self) -> None:
        """Start again: the handover has entered another state."""
        self._pause, self._unreached_since = _FIRST_PAUSE, None

    def next_pause(self) -> float:
        """The seconds to wait before the next try: twice as long each time, up to 5 s."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return pause

    def reached(self) -> None:
        """Note that the destination has answered."""
        self._unreached_since = None

    def unreached(self, now: float) -> Event:
        """Note that the destination has not answered. Returns UNREACHED, or GIVEN_UP once ``give_up`` seconds
        have passed.
        """
        if self._unreached_since is None:
            self._unreached_since = now
        return Event.UNREACHED if self.still_tries(now) else Event.GIVEN_UP

    def still_tries(self, now: float) -> bool:
        """Whether it is too early to say that the destination cannot be reached."""
        return self._unreached_since is not None and now - self._unreached_since < self.give_up


def by_the_clock(source: Source, lasted: float, longest: float) -> HandoverEvent | None:
    """The event for a handover that has been prepared for a while and was not committed; None: nothing
    happens.

    ``lasted`` is the age of the handover in seconds, ``longest`` its limit (limits.handover).
    """
    if source.state is not SourceState.PREPARED:
        return None
    if lasted > longest:
        problem = f"it was prepared for longer than {longest:g} s (limits.handover)"
        return HandoverEvent(Event.ASKED_ROLL_BACK, problem=problem)
    return HandoverEvent(Event.ASKED_CHECK)
