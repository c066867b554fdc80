"""The entries of the history: what changed a reservation, who asked for it, and what the LUN answered."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry.

    Attributes:
        at: Seconds since the epoch.
        guest: The guest's name.
        what: A PERSISTENT RESERVE OUT ("PREEMPT"), or a request ("asked to commit").
        by: Who is behind it: "guest", "agent", "uid 0", "certificate of admin-1", "host host-a".
        lun: The LUN's designator; empty for a request.
        handover_id: The handover that it belongs to; empty if none.
        key, new_key: RESERVATION KEY and SERVICE ACTION RESERVATION KEY of the command, "0x…".
        type: The number of the reservation's type; None if the command has none.
        answer: What the LUN answered; for a request empty.
    """

    at: float
    guest: str
    what: str
    by: str
    lun: str = ""
    handover_id: str = ""
    key: str = ""
    new_key: str = ""
    type: int | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """Who is behind the commands that a task sends, and the handover to which they belong."""

    by: str
    handover_id: str = ""


AGENT = Cause("agent")

CAUSE: ContextVar[Cause] = ContextVar("CAUSE", default=AGENT)
"""The cause of what the present task does; tasks that it starts have the same one."""
