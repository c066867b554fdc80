"""The state of a handover on each host, the events that happen to it, and the messages between the hosts.

`holdover.handover.source_rules` and `holdover.handover.destination_rules` decide what follows from an event.
They return the new state and its effects (`holdover.handover.effects`).
"""

from __future__ import annotations

from enum import Enum

import msgspec

from holdover.guest.gate import Gate
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.state_table import DESTINATION, SOURCE
from holdover.handover.states import DestinationState, Event, MessageKind, SourceState
from holdover.reservations.tracked import Tracked


class EventNotAllowed(Exception):
    """The event is not allowed in this state; nothing was changed."""


class Answered(Enum):
    """How the destination answers a message."""

    DONE = "done"
    REFUSED = "refused"
    TAKEN = "taken"
    KEPT = "kept"
    """To RECALL: the commit was not done, everything is prepared, and no earlier message counts any more."""
    UNKNOWN = "unknown"
    """To RECALL: the LUN could not be asked."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message from the source to the destination.

    ``number`` grows with every message of the handover. ``machine_type`` is that of the guest. ``armed``:
    whether the destination may do the commit before the commit is on record.
    """

    kind: MessageKind
    handover_id: str
    guest: str
    number: int
    luns: tuple[LunHandover, ...]
    machine_type: str = ""
    armed: bool = False


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The destination's answer to the source's message with that ``number``."""

    kind: Answered
    number: int
    luns: tuple[LunHandover, ...] = ()
    problem: str = ""


class Source(msgspec.Struct, frozen=True, gc=False):
    """A handover on the host that the guest leaves. The journal has all of it.

    Attributes:
        handover_id, guest, peer: The id of the handover, the guest's name, the destination's name.
        state: The state of the handover.
        luns: The guest's LUNs.
        number: The number of the last message.
        changed: The designators of LUNs on which the guest has changed something since the last PREPARE was
            sent.
        reason: Why the handover is rolled back; empty if it is not.
        problem: What prevents the handover from going on; empty if nothing does.
        not_alone: Why the handover cannot be rolled back without the destination; empty if it can, or if that
            was not tried.
        machine_type: The machine type of the guest.
        restarted: Whether the agent was restarted during this handover. Then an operator may have declared
            the source dead in the meantime.
        rechecks: Whether the state is a recheck of what was prepared, for which nothing was sent or changed.
        isolated: Whether `SourceState.ISOLATING` is done, so that it must not begin again.
        reclaimed: Whether `SourceState.RECLAIMING` is done, so that the destination may have given back what
            it had.
        arms: Whether this handover may be armed: both agents know how to go on after a restart.
        armed: Whether a commit may be done, and be answered, before it is on record.
    """

    handover_id: str
    guest: str
    peer: str
    state: SourceState
    luns: tuple[LunHandover, ...]
    number: int = 0
    changed: frozenset[str] = frozenset()
    reason: str = ""
    problem: str = ""
    not_alone: str = ""
    machine_type: str = ""
    restarted: bool = False
    rechecks: bool = False
    isolated: bool = False
    reclaimed: bool = False
    arms: bool = False
    armed: bool = False

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return self.state not in (SourceState.STAYED, SourceState.GONE)

    @property
    def gate(self) -> Gate:
        """What the guest's devices on this host let through."""
        return SOURCE[self.state].gate

    @property
    def rolls_back(self) -> bool:
        """Whether the roll back has begun."""
        return bool(self.reason)


class Destination(msgspec.Struct, frozen=True, gc=False):
    """A handover on the host that the guest goes to. The journal has all of it.

    Attributes:
        handover_id, guest, peer: The id of the handover, the guest's name, the source's name.
        state: The state of the handover.
        luns: The guest's LUNs.
        number: The number of the last message that has arrived.
        answer: The answer to that message; None while the message is being handled.
        problem: Why the last request was not done; empty if it was.
        armed: Whether a commit may be done, and be answered, before it is on record.
        unbegun: Whether the source has ended it before it began here. Then it has touched no gate.
    """

    handover_id: str
    guest: str
    peer: str
    state: DestinationState
    luns: tuple[LunHandover, ...]
    number: int = 0
    answer: Answer | None = None
    problem: str = ""
    armed: bool = False
    unbegun: bool = False

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return self.state not in (DestinationState.RETURNED, DestinationState.HERE)

    @property
    def gate(self) -> Gate:
        """What the guest's devices on this host let through."""
        return DESTINATION[self.state].gate


class DeviceView(msgspec.Struct, frozen=True, gc=False):
    """What one device of the guest on this host reports when work has ended.

    Attributes:
        designator: The LUN.
        tracked: What the guest has established, as the device tracks it.
        stale: Whether ``tracked`` may be wrong.
        migrate_pr: Whether the registration and the reservation move.
        pending_attentions: The unit attentions about the guest's reservation that the guest has not got yet.
        candidates: Keys that the guest may have instead, if the result of one of its commands is not known.
    """

    designator: str
    tracked: Tracked = UNREGISTERED
    stale: bool = False
    migrate_pr: bool = True
    pending_attentions: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()


class HandoverEvent(msgspec.Struct, frozen=True, gc=False):
    """An event, with the data that belongs to it.

    Attributes:
        event: What happened.
        luns: For DONE: all LUNs as they are known now. For CHANGED: the LUNs whose tracked state has changed.
            For TOLD: the LUNs in the destination's answer.
        problem: The reason, for FAILED, REFUSED, UNREACHED, GIVEN_UP and ASKED_ROLL_BACK.
        devices: For DONE and RESTARTED: what all of the guest's devices report; None: they were not asked.
    """

    event: Event
    luns: tuple[LunHandover, ...] = ()
    problem: str = ""
    devices: tuple[DeviceView, ...] | None = None

    @property
    def pending_attentions(self) -> dict[str, tuple[int, ...]]:
        """The unit attentions that the guest has not got yet, by designator."""
        return {device.designator: device.pending_attentions for device in self.devices or ()}
