"""The changes that the page can ask for, if the operator allows changes."""

from __future__ import annotations

import secrets
from enum import Enum

import msgspec

from holdover.api.migration_documents import MigrationRequest
from holdover.fleet.survey import Survey


class Change(Enum):
    """What to do with a guest."""

    MIGRATE = "migrate"
    """Begin a migration to the host ``to``."""
    CANCEL = "cancel"
    """Cancel the migration that is under way; ``id`` is that of the migration."""
    ROLL_BACK = "roll back"
    """Keep the guest on the source; ``id`` is that of the handover."""


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change that the operator wants: of which guest, at the agent of which host."""

    change: Change
    guest: str
    host: str
    to: str = ""
    id: str = ""


async def carry_out(survey: Survey, request: ChangeRequest) -> str:
    """Ask the host's agent for the change. Returns what is true now, in a sentence.

    Raises:
        AgentError: The agent refused, or whether it did what was asked is not known.
    """
    client = await survey.client(request.host)
    if request.change is Change.ROLL_BACK:
        state = await client.roll_back(request.guest, request.id)
        return f"handover {state.handover_id} of guest {request.guest} is {state.state}"
    if request.change is Change.CANCEL:
        cancelled = await client.cancel_migration(request.guest, request.id)
        return f"guest {request.guest}: {cancelled.now}"
    begun = await client.migrate(
        request.guest, MigrationRequest(migration_id=secrets.token_hex(8), to=request.to)
    )
    return f"guest {request.guest}: the migration to {request.to} has begun: {begun.now}"
