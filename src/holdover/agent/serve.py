"""Runs an agent: its host, and the sockets at which its API is asked."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn

from holdover.agent.config import AgentConfig, parse_host_port
from holdover.agent.host import Host
from holdover.agent.server import application

__all__ = ["serve"]


class _Server(uvicorn.Server):
    """Leaves signals to `serve`, which has exports to end before the process may."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(config: AgentConfig, ready: Callable[[Host], None]) -> None:
    """Run an agent until SIGINT or SIGTERM; ``ready`` is called once it can be asked.

    Raises:
        OSError: The API or an export cannot listen at its address.
    """
    api = parse_host_port(config.api.listen, "api.listen")
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    with socket.create_server((api.host, api.port), family=family) as listener:
        host = Host(config)
        settings = uvicorn.Config(
            application(host), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
        )
        server = _Server(settings)

        def end() -> None:
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        await host.start()
        try:
            ready(host)
            await server.serve(sockets=[listener])
        finally:
            await host.close()
