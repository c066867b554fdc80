"""What this host says of the place of each guest, from its own records."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.attach.hosted_guest import LeftToQemu
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.handovers import Handovers
from holdover.guest.gate import Gate
from holdover.placement.claim import Said, Word


class Places:
    """What this host says of each guest, apart from its own claims."""

    def __init__(
        self,
        guests: Mapping[str, HostedGuest],
        attached: Callable[[str], Attached | None],
        handovers: Handovers,
        migrates: Callable[[str], bool],
    ) -> None:
        """The rest of the agent shares ``guests``. ``attached`` finds a guest with its gate; ``migrates``
        returns whether a migration of a guest from here is under way."""
        self._guests = guests
        self._attached = attached
        self._handovers = handovers
        self._migrates = migrates

    def gate(self, name: str) -> Gate | None:
        """The gate of a guest now; None for a guest that this host does not know."""
        attached = self._attached(name)
        return None if attached is None else attached.gate_now

    def says(self, name: str) -> Said:
        """What this host says of a guest."""
        newest = self._handovers.summary(name)
        mark = "" if newest is None else f"{newest.handover_id} {newest.role}"
        if self.moves(name):
            return Said(Word.MOVES, mark)
        return Said(Word.HAS if self._has(name) else Word.FREE, mark)

    def moves(self, name: str) -> bool:
        """Whether a handover or a migration of a guest is under way here."""
        return self._handovers.is_in_handover(name) or self._migrates(name)

    def _has(self, name: str) -> bool:
        guest, attached = self._guests.get(name), self._attached(name)
        if guest is None or attached is None:
            return False
        if isinstance(guest, LeftToQemu):
            return attached.process is not None and not attached.process.ended
        return attached.gate_now is Gate.RUNNING
