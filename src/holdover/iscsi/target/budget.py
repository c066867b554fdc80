"""The bytes that the commands of a target, and of its whole process, may hold at one time; pure.

Data-Out counts from the moment when the target asks for it, or when it begins to come, until its command has
ended. Data-In counts from the moment when its command begins until the connection has taken it.

A command that holds unsolicited data may wait for room for the rest of its data. So that such commands do not
wait for one another for ever, unsolicited data has half of the room at most, and all other data goes on.
"""

from __future__ import annotations

from collections.abc import Callable

_Wake = Callable[[], None]


class ByteBudget:
    """A limit of bytes. It may be part of a larger limit: then there must be room in both.

    A part that holds nothing gets room for the unsolicited data of a command, and a part that holds nothing
    but unsolicited data gets room for other data, whatever the other parts hold. So one command of each part
    can always be carried out.

    Args:
        limit: The most bytes.
        whole: The larger limit of which this is a part.

    Attributes:
        used: The bytes that are held.
        unsolicited: The held bytes that came unsolicited.
    """

    def __init__(self, limit: int, whole: ByteBudget | None = None) -> None:
        self.used = 0
        self.unsolicited = 0
        self._limit = limit
        self._whole = whole
        self._waiting: dict[_Wake, None] = {}

    @property
    def limit(self) -> int:
        """The most bytes."""
        return self._limit

    def take(self, count: int) -> bool:
        """Hold more bytes; returns False, and holds nothing more, when there is no room for them."""
        whole = self._whole
        if self.used > self.unsolicited and count:
            if self.used + count > self._limit:
                return False
            if whole is not None and whole.used + count > whole._limit:
                return False
        self.used += count
        if whole is not None:
            whole.used += count
        return True

    def take_unsolicited(self, count: int) -> bool:
        """The same for unsolicited data."""
        budget: ByteBudget | None = self
        while budget is not None:
            if budget.used + count > budget._limit or budget.unsolicited + count > budget._limit // 2:
                return False
            budget = budget._whole if self.used else None
        budget = self
        while budget is not None:
            budget.used += count
            budget.unsolicited += count
            budget = budget._whole
        return True

    def give(self, count: int, unsolicited: int = 0) -> None:
        """Hold fewer bytes, of which ``unsolicited`` came unsolicited, and wake the callers of `wait`."""
        self.used -= count
        self.unsolicited -= unsolicited
        if self._whole is not None:
            self._whole.give(count, unsolicited)
        elif self._waiting:
            waiting, self._waiting = self._waiting, {}
            for wake in waiting:
                wake()

    def wait(self, wake: _Wake) -> None:
        """Call ``wake`` once, when there is more room. ``wake`` must not take or give before it returns."""
        self._outermost._waiting[wake] = None

    def wait_no_more(self, wake: _Wake) -> None:
        """Undo `wait`: do not call ``wake`` any more."""
        self._outermost._waiting.pop(wake, None)

    @property
    def _outermost(self) -> ByteBudget:
        return self if self._whole is None else self._whole._outermost
