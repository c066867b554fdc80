"""``holdover dashboard``: the site in the operator's browser, served by this command on loopback."""

from __future__ import annotations

import asyncio
import os
import socket

import uvicorn
from rich.console import Console

from holdover import __version__
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.cli.fleet.top import survey
from holdover.config.agent_file import ConfigError
from holdover.fleet.dashboard import Session, Settings, dashboard


def run(apis: list[str], asking: Asking, port: int, allow_changes: bool) -> None:
    """Serve the page until interrupted."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        refuse(f"127.0.0.1:{port}: {why}; choose another --port, or 0 for any", 1)
    try:
        asyncio.run(_serve(listener, apis, asking, allow_changes))
    except ConfigError as error:
        refuse(str(error))
    except KeyboardInterrupt:
        pass


async def _serve(listener: socket.socket, apis: list[str], asking: Asking, allow_changes: bool) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    session = Session()
    async with survey(apis, asking) as agents:
        app = dashboard(
            agents, session, Settings(allow_changes=allow_changes, version=__version__), lambda: address
        )
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", access_log=False))
        what = (
            "It shows, and changes what you ask for." if allow_changes else "It shows, and changes nothing."
        )
        Console().print(
            f"Open http://{address}/?token={session.token}\n"
            f"The address works once, in one browser. {what} Ctrl-C ends it.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        await server.serve(sockets=[listener])
