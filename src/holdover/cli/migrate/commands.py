"""The command ``holdover migrate``; `migrating` and `migrate` in this folder do its work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from holdover.cli.asking import API, BY_OPTIONS, Asking, agent_api
from holdover.cli.errors import refuse
from holdover.cli.options import (
    DEFAULT_AGENT,
    GuestArgument,
    JsonOption,
    StaleOption,
    ToOption,
)

if TYPE_CHECKING:
    from holdover.api.migration_documents import MigrationOptions


def migrate(
    guest: GuestArgument,
    destination: ToOption,
    source: Annotated[
        str | None,
        typer.Option(
            "--at",
            "--from",
            metavar="ADDRESS",
            envvar=API,
            help=f"The API of the source's agent. {DEFAULT_AGENT}",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="End this command when the migration has begun.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check both hosts and each LUN, and change nothing.")
    ] = False,
    bandwidth: Annotated[
        int | None, typer.Option(min=1, metavar="MEBIBYTES", help="The most that QEMU sends in a second.")
    ] = None,
    max_downtime: Annotated[
        int | None,
        typer.Option(min=1, metavar="MILLISECONDS", help="The longest standstill that QEMU aims at."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long the copy of the memory may take.")
    ] = 3600,
    timeout_action: Annotated[
        Literal["abort", "suspend"],
        typer.Option(
            help="What to do after that time. abort: the guest stays. suspend: it is stopped, and goes."
        ),
    ] = "abort",
    auto_converge: Annotated[
        bool, typer.Option("--auto-converge", help="Slow the guest down until the copy keeps up.")
    ] = False,
    multifd: Annotated[
        int | None,
        typer.Option(min=1, max=255, metavar="NUMBER", help="The number of connections for memory."),
    ] = None,
    postcopy: Annotated[
        bool,
        typer.Option(
            "--postcopy",
            help="Let the guest run on the destination after the first pass; the rest of its memory follows.",
        ),
    ] = False,
    compression: Annotated[
        Literal["zlib", "zstd"] | None,
        typer.Option(help="Compress the memory. It uses the connections of --multifd, or 2."),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt QEMU's own stream.")] = False,
    reservations_only: Annotated[
        bool,
        typer.Option("--reservations-only", help="Move the reservations alone; nothing is asked of QEMU."),
    ] = False,
    source_qmp: Annotated[
        Path | None,
        typer.Option(
            metavar="SOCKET",
            help="The QMP socket of the QEMU that the guest runs in, if this command is to drive QEMU.",
        ),
    ] = None,
    destination_qmp: Annotated[
        Path | None,
        typer.Option(
            metavar="SOCKET", help="The QMP socket of the QEMU that waits for the guest, for the same case."
        ),
    ] = None,
    migrate_uri: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Where the QEMU that waits listens, for the same case: tcp:HOST:PORT."
        ),
    ] = None,
    destination_waits: Annotated[
        bool | None,
        typer.Option(
            "--destination-waits/--destination-runs",
            help="Whether the QEMU that waits was started with -S, if this command is to drive QEMU. "
            "[default: as its command line says]",
        ),
    ] = None,
    stale: StaleOption = "reread",
    fail_after: Annotated[
        Literal["prepare", "commit"] | None,
        typer.Option(help="Rehearse a failure: roll back after this step."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write where the time went: into a .html file as a page, into a .json file for Perfetto and "
            "about:tracing.",
        ),
    ] = None,
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Move a guest to another host, together with its reservations.

    Each host's agent drives the QEMU there.
    The migration continues if this command ends: holdover migrations shows it. Exit status: 0 moved, 1 not
    moved, 3 in doubt.
    """
    driven_here = (source_qmp, destination_qmp, migrate_uri, destination_waits, fail_after)
    if not reservations_only and all(each is None for each in driven_here):
        from holdover.cli.migrate.migrating import Order, run

        order = Order(
            guest,
            agent_api(source),
            destination,
            _options(
                bandwidth=None if bandwidth is None else bandwidth << 20,
                max_downtime=max_downtime,
                timeout=timeout,
                timeout_action=timeout_action,
                auto_converge=auto_converge,
                multifd=multifd,
                postcopy=postcopy,
                compression=compression,
                tls=tls,
                stale=stale,
            ),
            detach,
            dry_run,
            trace,
            json,
        )
        run(order, asking)
        return
    of_agents = {
        "--detach": detach,
        "--dry-run": dry_run,
        "--bandwidth": bandwidth,
        "--max-downtime": max_downtime,
        "--auto-converge": auto_converge,
        "--multifd": multifd,
        "--postcopy": postcopy,
        "--compression": compression,
        "--tls": tls,
    }
    given = [name for name, value in of_agents.items() if value]
    if given:
        refuse(
            f"{', '.join(given)}: for migrations that the agents drive, without --source-qmp, --fail-after "
            "and --reservations-only"
        )
    from holdover.api.documents import Stale
    from holdover.cli.migrate.migrate import MigrateOptions
    from holdover.cli.migrate.migrate import run as drive

    drive(
        MigrateOptions(
            guest,
            agent_api(source),
            destination,
            source_qmp,
            destination_qmp,
            migrate_uri,
            destination_waits,
            timeout,
            Stale(stale),
            fail_after,
            trace,
            json,
        ),
        asking,
    )


def _options(**given: object) -> MigrationOptions:
    """The options of the migration, checked as an agent checks them."""
    import msgspec

    from holdover.api.migration_documents import MigrationOptions

    try:
        return msgspec.convert(given, MigrationOptions)
    except msgspec.ValidationError as error:
        refuse(f"--{error}")
