"""What an agent shows of itself, made at most once a second however many ask."""

from __future__ import annotations

import asyncio
import datetime
import time

from holdover.agent.host import Host
from holdover.agent.monitoring.peer_watch import PeerWatch
from holdover.agent.monitoring.readiness import readiness
from holdover.agent.monitoring.readings import readings_of
from holdover.api.documents import ReadinessState
from holdover.metrics.exposition import text_of

_FRESH_SECONDS = 1.0
"""How long a page of metrics is given to all who ask, so that many scrapers cost as much as one."""


class Monitor:
    """The metrics and the readiness of one host. The owner closes it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._watch = PeerWatch(host.peers, lambda: tuple(each.name for each in host.config.peer))
        self._page: asyncio.Task[bytes] | None = None
        self._made_at = 0.0

    def start(self) -> None:
        """Begin to ask the peers."""
        self._watch.start()

    def readiness(self) -> ReadinessState:
        """Whether the agent can do its work, part by part."""
        return readiness(self._host, self._watch.reports, datetime.datetime.now(datetime.UTC))

    async def metrics(self) -> bytes:
        """The page that Prometheus reads; it may be a second old."""
        now = time.monotonic()
        if self._page is None or now - self._made_at > _FRESH_SECONDS:
            self._made_at = now
            self._page = asyncio.ensure_future(self._make())
        return await asyncio.shield(self._page)

    async def _make(self) -> bytes:
        readings = await readings_of(self._host, self._watch.reports, self.readiness())
        # the number of open descriptors is a long read of /proc
        return await asyncio.to_thread(text_of, readings)

    async def close(self) -> None:
        """End what is under way."""
        await self._watch.close()
        if self._page is not None:
            await asyncio.gather(self._page, return_exceptions=True)
