"""What a migration needs of the handovers of its host."""

from __future__ import annotations

from typing import Protocol

from holdover.agent.handover.answers import HandoverSummary
from holdover.api.documents import HandoverState, Stale
from holdover.handover.states import Event


class GuestHandovers(Protocol):
    """The operations of the agent on handovers that a migration uses."""

    async def prepare(self, name: str, handover_id: str, to: str, stale: Stale = ...) -> HandoverState: ...
    async def ask(self, name: str, handover_id: str, event: Event) -> HandoverState: ...
    def summary(self, name: str) -> HandoverSummary | None: ...
    async def settled(self, name: str) -> None: ...
    async def commit_leaves(self, name: str) -> None: ...
