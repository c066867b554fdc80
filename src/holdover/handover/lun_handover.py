"""What a handover knows of one LUN. Both hosts send this document to each other and keep it in their
journals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from holdover.reservations.tracked import Tracked

UNREGISTERED: Final = Tracked()
"""What a guest has on a LUN on which it is not registered."""


class Registrations(msgspec.Struct, frozen=True, gc=False):
    """The registrations with the guest's key that one host has made on a LUN, as the LUN has shown them.

    Their number may differ from the number of paths of the host's device. A path that is away may be
    registered or not, and some arrays keep one registration for each initiator port, whatever the number of
    target ports.

    Attributes:
        count: How many registrations are proven to be this host's.
        several: Whether the host's device has several I_T nexuses (multipath); some of them may be away.
        ports: The initiator ports that are proven to be this host's, as READ FULL STATUS names them; of a
            destination with one nexus, the port that its agent knows (iSCSI). Empty if neither is known.
        paths: How many paths the host's device has, registered or not, as its agent says.
        away: Whether some paths could not be reached when the registrations were counted.
    """

    count: int = 1
    several: bool = False
    ports: tuple[str, ...] = ()
    paths: int = 1
    away: bool = False


class LunHandover(msgspec.Struct, frozen=True, gc=False):
    """One LUN of a guest that is being handed over.

    Attributes:
        designator: The name of the LUN that is the same on both hosts ("naa.…", VPD page 83h, SPC-4 7.8.6).
        migrate_pr: Whether the registration and the reservation move. If not, the handover changes nothing on
            this LUN.
        aptpl: Whether APTPL was active on the LUN at the last look, whoever has asked for it.
        tracked: What the guest has established on the LUN.
        source_spare: A random key for the source's nexus, for when that nexus needs a key that nobody has.
        destination_spare: The same for the destination's nexus.
        fresh_spare: A second random key for the source's nexus, for when that nexus has lost its
            registration. After a crash, this key on the LUN shows that the registration had been lost.
        port: The initiator port by which the source reaches the LUN (iSCSI); empty if it is not known.
        source: The source's registrations.
        destination: The destination's registrations.
        by_port: Whether the LUN keeps one registration for each initiator port, whatever the target ports;
            None if it is not known.
        shared: Whether the guest's key is registered on a nexus that is not proven to belong to one of the
            two hosts.
        others: The keys of all third nexuses, in ascending order.
        standing: Keys that the destination may have registered on its own nexus in this handover.
        preempted_key: The key that the destination's PREEMPT names or, in a roll back, the source's; 0: no
            PREEMPT.
        unreached: Whether the host that gives the reservation away has registrations with the guest's key on
            paths that are away. The host that receives it removes them.
        registered_there: Whether the destination's nexus had the guest's key when the destination's gate was
            shut again.
        ran_there: Whether the guest may have run on the destination. Then `tracked`, `aptpl`, `others` and
            `shared` are what the destination found when its gate was shut again.
        source_was_registered: Whether the source still had its registration when it changed that registration
            for the commit.
        pending_attentions: The unit attentions about its reservation that the guest has not got yet, from
            before or after it stopped. The guest gets each of them once, on the host where it runs next.
        lost: Whether the source has lost its registration, so that the guest's registration is on the
            destination now.
        conceded: For a destination that takes: whether the source, or an operator who knows that the source
            never comes back, has left the guest to the destination.
        alarm: What was found to be other than it should be; empty if nothing.
    """

    designator: str
    migrate_pr: bool = True
    aptpl: bool = False
    tracked: Tracked = UNREGISTERED
    source_spare: int = 0
    destination_spare: int = 0
    fresh_spare: int = 0
    port: str = ""
    source: Registrations = Registrations()
    destination: Registrations = Registrations()
    by_port: bool | None = None
    shared: bool = False
    others: tuple[int, ...] = ()
    standing: tuple[int, ...] = ()
    preempted_key: int = 0
    unreached: bool = False
    registered_there: bool = False
    ran_there: bool = False
    source_was_registered: bool = False
    pending_attentions: tuple[int, ...] = ()
    lost: bool = False
    conceded: bool = False
    alarm: str = ""

    @property
    def spares(self) -> tuple[int, int, int]:
        """The three random keys that were drawn for this handover. They never change during it."""
        return self.source_spare, self.destination_spare, self.fresh_spare

    def explains(self, preempted_key: int, spare: int) -> bool:
        """Whether the other host may ask to preempt this key. It may be the guest's key or the other host's
        own spare key; any other key belongs to a third party.
        """
        return preempted_key in (0, self.tracked.key, spare)

    @property
    def as_registered(self) -> Tracked:
        """`tracked` with the APTPL to register. The last REGISTER of any nexus sets APTPL for the whole LUN
        (SPC-4 5.13.5), so it must not turn off an APTPL on which another node relies.
        """
        return self.tracked if self.tracked.aptpl or not self.aptpl else replace(self.tracked, aptpl=True)

    def with_the_guests_last(self, there: LunHandover) -> LunHandover:
        """This LUN with what the guest had on the destination, if the guest may have run there."""
        if not there.ran_there:
            return self
        return replace(
            self,
            tracked=there.tracked,
            aptpl=there.aptpl,
            destination=there.destination,
            others=there.others,
            shared=there.shared,
            pending_attentions=there.pending_attentions,
            ran_there=True,
        )

    def with_attentions(self, pending: Mapping[str, tuple[int, ...]]) -> LunHandover:
        """This LUN with the unit attentions that the stopped guest has not got yet.

        ``pending`` has these by designator.
        """
        attentions = (*self.pending_attentions, *pending.get(self.designator, ()))
        return replace(self, pending_attentions=tuple(dict.fromkeys(attentions)))
