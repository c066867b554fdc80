"""The commands that show all hosts of a site at a glance."""

from __future__ import annotations

from typing import Annotated

import typer

from holdover.cli.asking import API, BY_OPTIONS, Asking, agent_api
from holdover.cli.options import DEFAULT_AGENT, JsonOption

ApisOption = Annotated[
    list[str] | None,
    typer.Option(
        "--api",
        metavar="ADDRESS",
        envvar=API,
        help="The API of an agent, unix:PATH or HOST:PORT; repeatable. With a certificate, the peers of "
        f"these agents are shown too. {DEFAULT_AGENT}",
    ),
]


def top(
    api: ApisOption = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, max=3600.0, help="The time between two pictures.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show one picture and end.")] = False,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Show hosts, guests, LUNs, holders and moves of a site, live.

    The key q ends it.
    """
    from holdover.cli.fleet.top import run

    run(api or [agent_api(None)], asking, interval, once, json)


def dashboard(
    api: ApisOption = None,
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="The port on 127.0.0.1; 0: any.")
    ] = 0,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Let the page begin and cancel migrations, and roll back."),
    ] = False,
    asking: Asking = BY_OPTIONS,
) -> None:
    """Serve a page with the hosts, guests, LUNs and moves of a site to your browser."""
    from holdover.cli.fleet.dashboard import run

    run(api or [agent_api(None)], asking, port, allow_changes)
