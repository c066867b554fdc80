"""The commands ``holdover migrations ...``; each does its work in `holdover.cli.migrate.migrations`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from holdover.cli.asking import BY_OPTIONS, Asking, agent_api
from holdover.cli.command_line import CommandLine, HelpfulGroup
from holdover.cli.errors import refuse
from holdover.cli.options import AtOption, CaOption, CertificateOption, GuestArgument, JsonOption, KeyOption


class _ListsByDefault(HelpfulGroup):
    """A group that shows its list, not its help, if no command is given."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse the group's own options."""
        parsed: list[str] = TyperGroup.parse_args(self, ctx, args)
        return parsed


app = CommandLine(
    """Show or change the migrations that an agent drives.

    Without a command it shows the newest one of each guest. Exit status: 0 done, 1 not done, 3 in doubt.
    """
)
app.info.cls = _ListsByDefault


@app.callback(invoke_without_command=True)
def migrations(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show them again and again, until interrupted.")
    ] = False,
    at: AtOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Show the newest migration of each guest that has left this host, or is leaving it."""
    if context.invoked_subcommand is not None:
        given = [name for name in context.params if _is_given(context, name)]
        if given:
            refuse(f"--{given[0]}: write it after {context.invoked_subcommand}")
        return
    from holdover.cli.migrate.migrations import show

    show(agent_api(at), Asking(certificate, key, ca), watch, json)


def _is_given(context: Any, name: str) -> bool:
    return bool(context.get_parameter_source(name).name == "COMMANDLINE")


@app.command()
def attach(
    guest: GuestArgument,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Follow a migration to its end, as the command that has begun it does."""
    from holdover.cli.migrate.migrations import attach as do

    do(guest, agent_api(at), asking, json)


@app.command()
def cancel(
    guest: GuestArgument,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Cancel a migration: the guest stays.

    This works until the guest has stopped to switch over.
    """
    from holdover.cli.migrate.migrations import cancel as do

    do(guest, agent_api(at), asking, json)


@app.command(name="set")
def set_(
    guest: GuestArgument,
    bandwidth: Annotated[
        int | None, typer.Option(min=1, metavar="MEBIBYTES", help="The most that QEMU sends in a second.")
    ] = None,
    max_downtime: Annotated[
        int | None,
        typer.Option(min=1, metavar="MILLISECONDS", help="The longest standstill that QEMU aims at."),
    ] = None,
    at: AtOption = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Change a migration while its memory is copied."""
    from holdover.api.migration_documents import MigrationChange
    from holdover.cli.migrate.migrations import change as do

    size = None if bandwidth is None else bandwidth << 20
    wanted = MigrationChange(bandwidth=size, max_downtime=max_downtime)
    do(guest, agent_api(at), wanted, asking, json)
