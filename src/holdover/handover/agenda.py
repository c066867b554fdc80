"""The queue of what one handover on one host still has to handle, and its order. No I/O and no clock.

- The guest's changes come first, then the end of the activity, then the requests, the oldest first.
- A request waits until the activity has ended. A request that the rules allow does not wait for a recheck, or
  for the pause before a retry: it ends these early.
- A request that the rules do not allow is refused as soon as there is no activity.
- The sender of a request gets an answer when the handover is at rest, or cannot go on. A message gets its own
  answer, which the rules return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import HandoverEvent, Message
from holdover.handover.states import Event

W = TypeVar("W")
"""A waiter for an answer; the caller chooses the type."""

What = HandoverEvent | Message


class Activity(Enum):
    """What the handover does at the moment."""

    NONE = "none"
    PAUSE = "pause"
    """The handover waits before it tries again."""
    RECHECK = "recheck"
    """The handover checks what was prepared; nobody outside can see that it does."""
    WORK = "work"
    """The handover works on LUNs, or waits for the destination's answer."""


@dataclass(frozen=True, slots=True)
class Turn(Generic[W]):
    """The next thing to handle.

    Attributes:
        what: The event or the message; None if there is nothing to handle now.
        refused: The requests that the rules do not allow now, each with its waiter.
    """

    what: What | None
    refused: tuple[tuple[What, W], ...] = ()


class Agenda(Generic[W]):
    """The guest's changes, the requests and the ends of activities that one handover has not handled yet.

    Attributes:
        activity: What the handover does at the moment.
    """

    def __init__(self) -> None:
        self.activity = Activity.NONE
        self._news: dict[str, LunHandover] = {}
        self._ended: HandoverEvent | None = None
        self._requests: list[tuple[What, W]] = []
        self._waiting: list[W] = []
        self._message: W | None = None

    # -- what comes in ------------------------------------------------------------------------------

    def add_news(self, lun: LunHandover) -> None:
        """Note that the guest has changed something on a LUN. Only the latest change of each LUN is kept."""
        self._news[lun.designator] = lun

    def ask(self, what: What, waiter: W) -> None:
        """Add a request for ``what``, with its waiter."""
        self._requests.append((what, waiter))

    def wait(self, waiter: W) -> None:
        """Add a waiter that waits until the handover is at rest, or cannot go on."""
        self._waiting.append(waiter)

    def end(self, happened: HandoverEvent) -> None:
        """Note that the activity has ended, with this event."""
        self.activity, self._ended = Activity.NONE, happened

    def drop_activity(self) -> None:
        """Note that the activity was given up, so no event comes from it."""
        self.activity, self._ended = Activity.NONE, None

    # -- what goes out ------------------------------------------------------------------------------

    def next(self, allowed: Callable[[What], bool]) -> Turn[W]:
        """The next thing to handle. ``allowed`` returns whether the rules allow a request now."""
        if self._news:
            news, self._news = tuple(self._news.values()), {}
            return Turn(HandoverEvent(Event.CHANGED, news))
        if self._ended is not None:
            ended, self._ended = self._ended, None
            return Turn(ended)
        if self.activity is Activity.WORK:
            return Turn(None)
        place = next((place for place, (what, _) in enumerate(self._requests) if allowed(what)), None)
        refused: tuple[tuple[What, W], ...] = ()
        if self.activity is Activity.NONE:
            before = len(self._requests) if place is None else place
            refused, self._requests = tuple(self._requests[:before]), self._requests[before:]
            place = place and 0
        if place is None:
            return Turn(None, refused)
        what, waiter = self._requests.pop(place)
        if isinstance(what, Message):
            self._message = waiter
        else:
            self._waiting.append(waiter)
        return Turn(what, refused)

    def answered(self) -> W | None:
        """The waiter for the answer to the last message; None if there is none. The agenda forgets this
        waiter.
        """
        waiter, self._message = self._message, None
        return waiter

    def accepted(self) -> tuple[W, ...]:
        """The waiters whose requests were accepted, to be answered now. The agenda forgets them."""
        waiting, self._waiting = tuple(self._waiting), []
        return waiting

    def refused(self) -> tuple[tuple[What, W], ...]:
        """The requests that are still pending, without messages, when the handover cannot go on. The agenda
        forgets them.
        """
        left = tuple((what, waiter) for what, waiter in self._requests if not isinstance(what, Message))
        self._requests = [(what, waiter) for what, waiter in self._requests if isinstance(what, Message)]
        return left

    def everybody(self) -> tuple[W, ...]:
        """All waiters, when the handover stops or nothing can be put on record. The agenda forgets them."""
        message = () if self._message is None else (self._message,)
        everybody = (*self._waiting, *message, *(waiter for _, waiter in self._requests))
        self._waiting, self._requests, self._message = [], [], None
        return everybody
