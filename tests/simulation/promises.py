"""The promises of docs/develop/design.md, checked after each command of a LUN and when a gate opens.

What a guest has established is known here from the LUN itself: it is what the guest's nexus has after a
command of the guest. What third nodes, other guests and losses of power take from it is subtracted. Commands
that agents send by themselves must change none of it.

Two things no agent can know, and docs/develop/design.md says so: that somebody has registered the guest's own
key, or has turned APTPL on, since the agent has looked. Only what is older than `UNSEEN_SECONDS` counts here.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from holdover.lun.reservations import ReservationState
from holdover.reservations.tracked import Tracked
from holdover.scsi.nexus import ITNexus
from tests.simulation.clockwork import Broken

_NOTHING = Tracked()

UNSEEN_SECONDS = 20.0
"""More than an agent's last look may be old when it acts: the limits of recheck, give_up, peer and step."""


@dataclass(slots=True)
class _Guest:
    """What a guest has established on one LUN.

    Attributes:
        nexuses: Its nexuses on each host; a multipath device has one for each path.
        all: Its nexuses on all hosts.
        truth: What it has established.
        between: Other keys that its nexuses may have: a command that goes to several paths was not carried
            out by all of them.
        open_end: Somebody has preempted it while one of its nexuses had another key for a moment: to be
            removed is then as right as to stay.
        had: The last key that somebody has taken from it.
        away: The nexuses of paths that have failed. What they have registered may stay: nobody could reach
            them, or nobody knows that they belong to the host.
    """

    nexuses: dict[str, tuple[ITNexus, ...]]
    truth: Tracked = _NOTHING
    had: int = 0
    between: frozenset[int] = frozenset()
    open_end: bool = False
    away: set[ITNexus] = field(default_factory=set)
    all: frozenset[ITNexus] = field(init=False)

    def __post_init__(self) -> None:
        self.all = frozenset(nexus for each in self.nexuses.values() for nexus in each)


@dataclass(slots=True)
class Ledger:
    """Who has established what on one LUN.

    Attributes:
        lun: The LUN's name.
        guests: The guests that have this LUN.
        aptpl: Whether somebody relies on APTPL, so that it must not be turned off.
        tells_aptpl: Whether the LUN has REPORT CAPABILITIES, by which an agent sees it.
    """

    lun: str
    now: Callable[[], float]
    guests: dict[str, _Guest] = field(default_factory=dict)
    aptpl: bool = False
    tells_aptpl: bool = True
    _aptpl_at: float = 0.0
    _registered_at: dict[tuple[ITNexus, int], float] = field(default_factory=dict)

    def add(self, guest: str, nexuses: dict[str, tuple[ITNexus, ...]]) -> None:
        """A guest that has this LUN, by its nexuses on each host."""
        self.guests[guest] = _Guest(nexuses)

    def truth(self, guest: str) -> Tracked:
        """What a guest has established."""
        return self.guests[guest].truth

    # -- what was carried out -----------------------------------------------------------------------

    def by_guest(
        self,
        guest: str,
        host: str,
        nexus: ITNexus,
        before: ReservationState,
        after: ReservationState,
        *,
        registers: bool,
    ) -> None:
        """A command of a guest itself has been carried out; ``registers``: a REGISTER of any kind.

        ``nexus``: the one by which it has come. Another path of the same device may have carried it out
        before, or carries it out afterwards.
        """
        if before == after:
            return
        own = self.guests[guest]
        nexuses = own.nexuses[host]
        keys = {after.key_of(each) for each in nexuses} - {0}
        key = after.key_of(nexus)
        own.open_end = bool(keys) and key == 0
        own.between = frozenset(keys - {key})
        if not keys:
            own.truth = _NOTHING
        else:
            held = after.reservation
            kind = held.type if held is not None and any(after.holds(each) for each in nexuses) else None
            aptpl = after.aptpl if registers else own.truth.aptpl
            own.truth = Tracked(key or min(keys), aptpl, kind)
        for name in self.guests:
            if name != guest:
                self._subtract(name, before, after)
        self._note(before, after)
        self._rely(after, after.aptpl and (self.aptpl or own.truth.aptpl))

    def doubt(self, guest: str, state: ReservationState) -> None:
        """Nobody knows by which paths a change of the guest was carried out, so each of them is right."""
        own = self.guests[guest]
        own.open_end = True
        own.between = frozenset(
            {own.truth.key, *own.between, *(state.key_of(each) for each in own.all)} - {0}
        )

    def path_failed(self, guest: str, nexus: ITNexus) -> None:
        """A path of a guest's disk has failed."""
        self.guests[guest].away.add(nexus)

    def by_third(self, before: ReservationState, after: ReservationState) -> None:
        """A command of a third node, which no agent knows, has been carried out."""
        if before == after:
            return
        for name in self.guests:
            self._subtract(name, before, after)
        self._note(before, after)
        self._rely(after, after.aptpl and (self.aptpl or not before.aptpl))

    def lost_power(self, after: ReservationState) -> None:
        """The LUN has lost its power."""
        if after.registrations:
            return
        for own in self.guests.values():
            own.truth, own.open_end = _NOTHING, False
        self.aptpl = False

    def by_agent(self, guest: str, host: str, before: ReservationState, after: ReservationState) -> None:
        """A command that an agent has sent by itself, for a guest, has been carried out."""
        if before == after:
            return
        own = self.guests[guest]
        mine = own.all
        if self._require_others(guest, host, before, after, mine):
            return
        self._note(before, after)  # what one guest's handover registers, another's may not have seen either
        if self.aptpl and after.registrations and not after.aptpl:
            if self.tells_aptpl and self.now() - self._aptpl_at > UNSEEN_SECONDS:
                raise Broken(f"{self.lun}: the agent of {host} has turned APTPL off")
            self.aptpl = False
            for each in self.guests.values():
                each.truth = replace(each.truth, aptpl=False)
        held, was = after.reservation, before.reservation
        is_given_up = own.truth.type is None or own.open_end
        if held is None and was is not None and was.holder is None and is_given_up:
            return  # the guest has given it up or was fenced; the last registrant was the other host's nexus
        if (held is None) != (was is None) or (held and was and held.type is not was.type):
            raise Broken(f"{self.lun}: the agent of {host} has changed what reservation is held")
        if held and was and held.holder != was.holder and not {held.holder, was.holder} <= mine:
            raise Broken(f"{self.lun}: the agent of {host} has moved a reservation that is not {guest}'s")

    def _require_others(
        self,
        guest: str,
        host: str,
        before: ReservationState,
        after: ReservationState,
        mine: frozenset[ITNexus],
    ) -> bool:
        """Whether somebody who has registered the guest's key too late to be seen was hit."""
        gone, come = _others(before, mine), _others(after, mine)
        if gone == come:
            return False
        hit = gone - come
        own = self.guests[guest]
        unseen = all(
            each[1] in (own.truth.key, own.had)
            and self.now() - self._registered_at.get(each, -UNSEEN_SECONDS) < UNSEEN_SECONDS
            for each in hit
        )
        if come - gone or not unseen:
            raise Broken(f"{self.lun}: the agent of {host} has changed somebody else's registration")
        for name in self.guests:
            if name != guest:
                self._subtract(name, before, after)
        return True

    def _note(self, before: ReservationState, after: ReservationState) -> None:
        known = {(each.nexus, each.key) for each in before.registrations}
        for each in after.registrations:
            if (each.nexus, each.key) not in known:
                self._registered_at[each.nexus, each.key] = self.now()

    def _rely(self, after: ReservationState, aptpl: bool) -> None:
        if aptpl and not self.aptpl:
            self._aptpl_at = self.now()
        self.aptpl = aptpl

    def _subtract(self, guest: str, before: ReservationState, after: ReservationState) -> None:
        own = self.guests[guest]
        own.had = own.truth.key or own.had
        if not after.aptpl:
            own.truth = replace(own.truth, aptpl=False)  # APTPL is the whole LUN's: the last REGISTER decides
        left = [nexus for nexus in own.all if after.key_of(nexus)]
        if not left:
            own.truth, own.open_end = _NOTHING, False
            return
        if any(before.key_of(nexus) and nexus not in left for nexus in own.all):
            own.open_end = True
        if own.truth.type is not None and not any(after.holds(nexus) for nexus in left):
            own.truth = replace(own.truth, type=None)

    # -- what must be so ----------------------------------------------------------------------------

    def require_held(self, state: ReservationState) -> None:
        """Every reservation that a guest holds is held."""
        for guest, own in self.guests.items():
            if own.truth.type is None or own.open_end:
                continue
            held = state.reservation
            if held is None or held.type is not own.truth.type:
                raise Broken(f"{self.lun}: the reservation of {guest} is not held")
            if held.holder is not None and held.holder not in own.all:
                raise Broken(f"{self.lun}: somebody else holds the reservation of {guest}")

    def require_runs(self, guest: str, host: str, state: ReservationState, why: str) -> None:
        """The guest may run on this host: its nexus there has exactly what the guest has established."""
        own = self.guests[guest]
        nexuses = own.nexuses[host]
        keys = {state.key_of(each) for each in nexuses}
        sure = {state.key_of(each) for each in nexuses if each not in own.away}
        key = max(keys)
        if own.open_end and not sure - {0}:
            return
        allowed = {own.truth.key, *own.between}
        if not keys & allowed or not sure <= {0, *allowed}:
            raise Broken(f"{self.lun}: {why}, and its nexus has key {key:#x}, not {own.truth.key:#x}")
        if own.truth.type is not None and not any(state.holds(each) for each in nexuses):
            raise Broken(f"{self.lun}: {why}, and does not hold its reservation there")
        if key and own.truth.aptpl and not state.aptpl:
            raise Broken(f"{self.lun}: {why}, without the APTPL that it asked for")

    def require_tracked(self, guest: str, host: str, tracked: Tracked) -> None:
        """What the agent tracks, and does not doubt, is what the guest has established.

        A reservation of all registrants is held by whoever registers, whether it was the guest that reserved.
        """
        own = self.guests[guest]
        kinds = tracked.type, own.truth.type
        is_everybodys = any(kind is not None and kind.all_registrants for kind in kinds)
        same = tracked.key == own.truth.key and (is_everybodys or kinds[0] is kinds[1])
        if same or own.open_end:
            return
        raise Broken(f"{self.lun}: the agent of {host} tracks {tracked}, and {own.truth} is true")

    def require_left(self, guest: str, host: str, place: str, state: ReservationState) -> None:
        """Nothing of the guest, which is on the host ``place``, is left behind on this host.

        Two hosts with one InitiatorName are one nexus, and what that has is the guest's where it runs.
        """
        own = self.guests[guest]
        for nexus in own.nexuses[host]:
            key = state.key_of(nexus)
            if key and nexus not in own.away and nexus not in own.nexuses[place]:
                raise Broken(f"{self.lun}: key {key:#x} of {guest} is left behind on {host}")


def _others(state: ReservationState, mine: frozenset[ITNexus]) -> frozenset[tuple[ITNexus, int]]:
    return frozenset((each.nexus, each.key) for each in state.registrations if each.nexus not in mine)


class Reserved:
    """Which session of an export has reserved one LUN by RESERVE: it shuts the others out.

    What ends it counts from the moment at which it was asked for. A RESERVE that is answered meanwhile
    may have come before it or after it, and does not count.
    """

    def __init__(self, lun: str, *, one_nexus: bool) -> None:
        """``one_nexus``: to the LUN all sessions are one nexus, and only the agent can tell them apart."""
        self._lun = lun
        self._one_nexus = one_nexus
        self._holder: int | None = None
        self._agent: object = None
        self._times = 0
        self._ending: Counter[int | None] = Counter()

    def begins(self, session: int, agent: object) -> None:
        """The session has been told that it has reserved the LUN. ``agent`` forgets that when it ends."""
        if self._ending[session] or self._ending[None]:
            return
        self._holder, self._agent = session, agent
        self._times += 1

    def ends(self, session: int | None) -> None:
        """The session releases the LUN, reserves it anew, or ends; None: the LUN is reset at the export."""
        if session in (None, self._holder):
            self._holder = None

    @contextlib.contextmanager
    def ending(self, session: int | None) -> Iterator[None]:
        """As `ends`, with the time that it takes."""
        self.ends(session)
        self._ending[session] += 1
        try:
            yield
        finally:
            self._ending[session] -= 1

    def by_another(self, session: int, agent: object) -> int | None:
        """The reservation by which a session that sends a command now is shut out; None: by none."""
        is_shut = self._one_nexus and self._agent is agent and self._holder not in (None, session)
        return self._times if is_shut else None

    def require_not_shut_out(self, session: int, agent: object, shut_out_by: int | None) -> None:
        """A write of a session was carried out. ``shut_out_by``: `by_another` when it was sent."""
        if shut_out_by is not None and shut_out_by == self.by_another(session, agent):
            raise Broken(
                f"{self._lun}: session {session} has written while session {self._holder} had it reserved"
            )
