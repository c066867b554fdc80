"""What travels between agents and those who ask them: the documents of the API.

``GET /guests`` and ``GET /guests/{name}`` answer `GuestState`; ``POST /guests/{name}/handover/{step}``
takes a `StepRequest` and answers a `StepAnswer`. Errors are a `Problem` with status 404 (no such guest),
409 (the step could not be done), 403 (who asks may not) or 400 (a document that is not one of these).
"""

from __future__ import annotations

from enum import Enum

import msgspec

from holdover.scsi.opcodes import ReservationType

__all__ = [
    "DeviceState",
    "GuestState",
    "HostState",
    "Moved",
    "Problem",
    "SessionState",
    "Step",
    "StepAnswer",
    "StepRequest",
]


_TYPES = frozenset(int(each) for each in ReservationType)


class Step(Enum):
    """The steps of a handover in their order, then those of rolling it back.

    The giver is the host that the guest leaves, the taker the one that it goes to.
    """

    LEAVE = "leave"
    """Giver: hold the guest's commands, wait for those in flight, ask the LUNs what is true."""
    REGISTER = "register"
    """Taker: the guest's key on its nexus."""
    GIVE = "give"
    """Giver: re-key or unregister where PREEMPT alone would touch a third nexus or nothing."""
    PREEMPT = "preempt"
    """Taker: PREEMPT, ask the LUN, let the guest's commands through."""
    FINISH = "finish"
    """Giver: clear the unit attentions left there; refuse what a left-behind guest may send."""

    CLOSE = "close"
    """Roll back, taker: hold commands again."""
    RECLAIM = "reclaim"
    """Roll back, giver: its registration as it was; tells whether it had been lost."""
    RETURN = "return"
    """Roll back, taker: remove what was prepared, or make ready for the giver's PREEMPT."""
    RESUME = "resume"
    """Roll back, giver: PREEMPT where the reservation had moved, then let the guest's commands through."""


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a guest.

    ``key`` 0 means not registered; ``type`` is the number of SPC-4 6.15.3.4, None when the guest holds
    no reservation. ``designator`` is None until the LUN has told it.
    """

    id: str
    lun: int
    drive: str
    designator: str | None
    migrate_pr: bool
    gate: str
    key: int
    type: int | None
    scope: int
    aptpl: bool
    stale: bool
    in_flight: int
    held: int


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """An initiator that is logged in to a guest's export."""

    initiator: str


class GuestState(msgspec.Struct, frozen=True, kw_only=True):
    """One guest on one host."""

    name: str
    host: str
    machine: str
    export: str
    devices: tuple[DeviceState, ...]
    sessions: tuple[SessionState, ...] = ()
    handover: str | None = None


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """One agent: its host's name, its initiator name and its guests; ``warnings`` are for whoever runs it."""

    host: str
    initiator: str
    version: str
    guests: tuple[GuestState, ...]
    warnings: tuple[str, ...] = ()


class Moved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step tells the next about one LUN, which is known by its designator.

    Attributes:
        designator: "naa.…", "eui.…" or "t10.…" (VPD page 83h).
        migrate_pr: Whether the device moves its reservation; else the rest is empty.
        key, type, scope, aptpl: What the guest established.
        shared: A third nexus has registered the same key.
        lost: The giver had lost its registration, so the reservation had moved.
        prey: The key that PREEMPT shall name; 0 for none.
    """

    designator: str
    migrate_pr: bool = True
    key: int = 0
    type: int | None = None
    scope: int = 0
    aptpl: bool = False
    shared: bool = False
    lost: bool = False
    prey: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.key < 1 << 64 and 0 <= self.prey < 1 << 64):
            raise ValueError("a reservation key has 64 bits")
        if self.type is not None and (self.key == 0 or self.type not in _TYPES):
            raise ValueError(f"no guest holds a reservation of type {self.type} with key {self.key:#x}")


class StepRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one handover: its identity and what the steps before it told."""

    handover: str
    devices: tuple[Moved, ...] = ()


class StepAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the step tells the next one, and how long it took on the host, milliseconds."""

    devices: tuple[Moved, ...]
    milliseconds: float = 0.0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not done: what happened and to whom."""

    error: str
    host: str = ""
    guest: str = ""
    step: str = ""
    lun: str = ""
