"""The route of the API that reads the history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from litestar import get
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery

from holdover.agent.api_description import AGENT, BAD
from holdover.agent.host import Host
from holdover.api.documents import HistoryList
from holdover.history.history import read

_MOST = 10_000
"""The most entries of one answer."""


def history_routes(host: Host) -> Sequence[BaseRouteHandler]:
    """The handler of ``/history``."""

    @get("/history", tags=[AGENT], responses=BAD, operation_id="get_history")
    async def history(
        name: FromQuery[str] = "", since: FromQuery[float] = 0.0, limit: FromQuery[int] = 1000
    ) -> HistoryList:
        """What changed the reservations of a guest or on a LUN; the newest entries, oldest first."""
        limit = max(1, min(limit, _MOST))
        await asyncio.to_thread(host.history.settle)
        entries = await asyncio.to_thread(read, host.history.file, name, since, limit)
        return HistoryList(host=host.config.name, entries=entries)

    return (history,)
