"""The commands of ``holdover host``, declared; `holdover.cli.host.host` does what they say."""

from __future__ import annotations

from typing import Annotated

import typer

from holdover.cli.asking import BY_OPTIONS, Asking, agent_api
from holdover.cli.command_line import CommandLine
from holdover.cli.options import AtOption, JsonOption

app = CommandLine("Show the peers of a host, and declare them dead or alive.")

_HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="The name of a [[peer]].")]


@app.command("list")
def list_hosts(
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """List the peers of the agent's host: whether they answer, and which are declared dead."""
    from holdover.cli.host.host import show

    show(agent_api(at), asking, json)


@app.command("declare-dead")
def declare_dead(
    host: _HostArgument,
    why: Annotated[str, typer.Option(metavar="REASON", help="The reason, for whoever looks later.")] = "",
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Put on record that a peer is dead: it is fenced, and no guest runs there.

    From then on `holdover guest start` takes its guests. When it comes back, it keeps its guests shut.
    """
    from holdover.cli.host.host import declare

    declare(host, agent_api(at), asking, dead=True, why=why, json=json)


@app.command("declare-alive")
def declare_alive(
    host: _HostArgument,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Undo `declare-dead`."""
    from holdover.cli.host.host import declare

    declare(host, agent_api(at), asking, dead=False, why="", json=json)
