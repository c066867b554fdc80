"""The routes of the agent's API about itself: metrics, and whether it lives and is ready."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Response, get
from litestar.handlers import BaseRouteHandler

from holdover.agent.api_description import AGENT, BAD
from holdover.agent.monitoring.monitor import Monitor
from holdover.api.documents import ReadinessState
from holdover.metrics.exposition import CONTENT_TYPE


def monitoring_routes(monitor: Monitor) -> Sequence[BaseRouteHandler]:
    """The handlers of ``/metrics``, ``/livez`` and ``/readyz``."""

    @get("/metrics", tags=[AGENT], responses=BAD, operation_id="get_metrics")
    async def metrics() -> Response[bytes]:
        """The metrics in Prometheus' text format."""
        return Response(await monitor.metrics(), headers={"content-type": CONTENT_TYPE})

    @get("/livez", sync_to_thread=False, tags=[AGENT], responses=BAD, operation_id="get_liveness")
    def livez() -> Response[bytes]:
        """The word ok, while the agent answers at all."""
        return Response(b"ok\n", headers={"content-type": "text/plain; charset=utf-8"})

    @get("/readyz", sync_to_thread=False, tags=[AGENT], responses=BAD, operation_id="get_readiness")
    def readyz() -> Response[ReadinessState]:
        """Whether the agent can do its work, part by part: 200 if it is ready, 503 if not."""
        state = monitor.readiness()
        return Response(state, status_code=200 if state.ready else 503)

    return (metrics, livez, readyz)
