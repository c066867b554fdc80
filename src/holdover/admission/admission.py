"""Which connections a process takes, so that nobody can use up its descriptors; pure.

Each connection comes by a *front end* (one listening socket, or all sockets of one export) from a *party*: a
user ("uid 65534") or an address. A connection that has not identified itself is a *stranger*. After it has,
its party is the name in its certificate, or its initiator name.

- The number of strangers is small. If there is no place for a new stranger, it takes the place of the oldest
  stranger; if its own party has its share already, that of the oldest one of this party. So silent
  connections keep nobody out.
- A known connection never loses its place to a stranger. No party has more than its share.
- Each front end keeps some places for itself, whatever happens at the others.
- All front ends together have fewer places than the process has descriptors: the guests' disks need the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How many connections a front end takes.

    Attributes:
        strangers: The most connections at once that have not identified themselves.
        strangers_each: The same, from one party.
        known: The most connections at once that have identified themselves.
        known_each: The same, of one party.
        known_of_group: The same, of one group of parties, such as the processes of one user; None: no limit.
        kept: The places that stay free for this front end, whatever happens at the others. This holds if all
            front ends together keep no more places than there are.
    """

    strangers: int
    strangers_each: int
    known: int
    known_each: int
    kept: int
    known_of_group: int | None = None


@dataclass(eq=False, slots=True)
class AdmittedConnection:
    """The place of one connection. Call `leave` once, when its descriptor is closed."""

    front_end: FrontEnd
    party: str
    group: str = ""
    is_known: bool = False
    is_here: bool = True
    charge: Callable[[], None] = lambda: None
    """Called when this connection was refused: what opens it made work for nothing, and waits longer the next
    time."""

    def known_as(self, party: str, group: str = "") -> bool:
        """Note that the connection has identified itself, and the group to which it belongs, if any. Returns
        False if that party, that group, or all known connections have their share already.
        """
        return self.front_end.make_known(self, party, group)

    def leave(self) -> None:
        """Free the place."""
        if self.is_here:
            self.front_end.take_out(self)


@dataclass(eq=False, slots=True)
class FrontEnd:
    """One front end; made by `Admission.front end`.

    Attributes:
        name: The name for messages.
        refused: How many connections were refused, or lost their place to another one, since the process
            began.
    """

    admission: Admission
    name: str
    allowance: Allowance
    refused: int = 0
    _strangers: dict[AdmittedConnection, None] = field(default_factory=dict)  # oldest first
    _strangers_of: Counter[str] = field(default_factory=Counter)
    _known_of: Counter[str] = field(default_factory=Counter)
    _known_of_group: Counter[str] = field(default_factory=Counter)
    _known: int = 0

    @property
    def count(self) -> int:
        """The number of connections at this front end."""
        return len(self._strangers) + self._known

    def enter(self, party: str) -> tuple[AdmittedConnection | None, AdmittedConnection | None]:
        """Admit a connection of ``party``. Returns its entry, or None if it must be closed; and the stranger
        that lost its place and must be closed now, or None. That stranger has left already.
        """
        victim = self._makes_room(party)
        if victim is not None:
            self.refused += 1
            self.take_out(victim)
        elif not self.admission.has_room(self):
            self.refused += 1
            return None, None
        entry = AdmittedConnection(self, party)
        self._strangers[entry] = None
        self._strangers_of[party] += 1
        return entry, victim

    def _makes_room(self, party: str) -> AdmittedConnection | None:
        allowed = self.allowance
        if self._strangers_of[party] >= allowed.strangers_each:
            return self._oldest(party)
        if len(self._strangers) >= allowed.strangers:
            return self._oldest(max(self._strangers_of, key=self._strangers_of.__getitem__))
        if self._strangers and not self.admission.has_room(self):
            return next(iter(self._strangers))
        return None

    def _oldest(self, party: str) -> AdmittedConnection:
        return next(entry for entry in self._strangers if entry.party == party)

    def make_known(self, entry: AdmittedConnection, party: str, group: str = "") -> bool:
        """As `AdmittedConnection.known_as`."""
        if not entry.is_here or entry.is_known:
            return entry.is_here
        if not self._has_share(party, group):
            self.refused += 1
            return False
        self._forget_stranger(entry)
        entry.party, entry.group, entry.is_known = party, group, True
        self._known_of[party] += 1
        if group:
            self._known_of_group[group] += 1
        self._known += 1
        return True

    def _has_share(self, party: str, group: str) -> bool:
        allowed = self.allowance
        if self._known_of[party] >= allowed.known_each or self._known >= allowed.known:
            return False
        most = allowed.known_of_group
        return not group or most is None or self._known_of_group[group] < most

    def take_out(self, entry: AdmittedConnection) -> None:
        """As `AdmittedConnection.leave`."""
        entry.is_here = False
        if not entry.is_known:
            self._forget_stranger(entry)
            return
        self._known -= 1
        _count_down(self._known_of, entry.party)
        if entry.group:
            _count_down(self._known_of_group, entry.group)

    def _forget_stranger(self, entry: AdmittedConnection) -> None:
        del self._strangers[entry]
        _count_down(self._strangers_of, entry.party)


def _count_down(counter: Counter[str], party: str) -> None:
    counter[party] -= 1
    if not counter[party]:
        del counter[party]


class Admission:
    """All front ends of a process; they share its descriptors."""

    def __init__(self, capacity: int) -> None:
        """``capacity``: the most connections at once, at all front ends together."""
        self.capacity = capacity
        self._front_ends: dict[FrontEnd, None] = {}

    def front_end(self, name: str, allowance: Allowance) -> FrontEnd:
        """A new front end."""
        front_end = FrontEnd(self, name, allowance)
        self._front_ends[front_end] = None
        return front_end

    def close(self, front_end: FrontEnd) -> None:
        """Remove a front end. The places that it kept are free for the others."""
        self._front_ends.pop(front_end, None)

    @property
    def front_ends(self) -> tuple[FrontEnd, ...]:
        """All front ends that are not closed."""
        return tuple(self._front_ends)

    @property
    def count(self) -> int:
        """The number of connections at all front ends."""
        return sum(front_end.count for front_end in self._front_ends)

    def has_room(self, front_end: FrontEnd) -> bool:
        """Whether there is a place for one more connection at ``front_end``: one that it keeps, or one that
        no front end keeps.
        """
        if self.count >= self.capacity:
            return False
        if front_end.count < front_end.allowance.kept:
            return True
        held = sum(max(each.count, each.allowance.kept) for each in self._front_ends)
        return held < self.capacity
