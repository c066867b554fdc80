"""``holdover lock-server``: answers libvirt in place of virtlockd, with the help of the agent."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from pathlib import Path

import structlog

from holdover.cli.daemons.descriptors import raise_descriptor_limit
from holdover.cli.errors import refuse
from holdover.helper.listener import Listener, ListenerError, activated, listen
from holdover.lock_server.relay import AgentAddress, Relay
from holdover.lock_server.server import LockServer
from holdover.lock_server.tracked_list import FILE_NAME

_MODE = 0o600
_FEW = 64
"""The descriptors that are not for connections."""


def run(socket: Path, agent: Path, state_dir: Path, uid: int) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        listener = activated(os.environ) or listen(socket, _MODE)
    except ListenerError as error:
        refuse(str(error), 1)
    raise_descriptor_limit()
    asyncio.run(_serve(listener, AgentAddress(agent, state_dir / FILE_NAME), uid))


async def _serve(listener: Listener, agent: AgentAddress, uid: int) -> None:
    # each connection of libvirt may need one to the agent
    most = max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FEW) // 2)
    server = LockServer(listener, uid, lambda pid: Relay(agent, pid), most)
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    await server.start()
    await end.wait()
    await server.close()
