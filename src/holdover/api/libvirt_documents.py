"""What agents ask each other about a guest that libvirt starts, moves or ends.

``POST /peer/libvirt`` takes a `GuestQuestion` and answers a `GuestAnswer`. The host that has the guest
decides what becomes of it; the others ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec


class Ask(Enum):
    """What one agent asks of another."""

    HAS = "has"
    """Do you have this guest?"""
    PREPARE = "prepare"
    """Prepare a handover of this guest to me."""
    COMMIT = "commit"
    """Commit the handover to me: the guest is about to run here."""
    YIELD = "yield"
    """I am the source of the handover. If you have not let the guest run, do not let it run from now on."""
    ROLL_BACK = "roll back"
    """Roll back the handover to me: the guest did not run here."""
    TRACKED = "tracked"
    """Which guests do you track?"""


class GuestQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question about a guest; ``uuid`` is libvirt's, ``handover`` the id that the question is about."""

    ask: Ask
    guest: str = ""
    uuid: str = ""
    handover_id: str = ""


class GuestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent that was asked says.

    Attributes:
        host: Its name.
        has: Whether it has the guest.
        alive: Whether a QEMU of the guest lives there.
        granted: Whether the guest was let run there.
        problem: Why it has not done what was asked; empty if it has.
        tracked: The guests that it tracks, with their UUIDs, empty for a UUID that is not known.
    """

    host: str
    has: bool = False
    alive: bool = False
    granted: bool = False
    problem: str = ""
    tracked: Mapping[str, str] = {}
