"""The command line: every command is declared here and does its work in a module of its own.

Nothing heavy is imported before a command needs it: `holdover --help` is to answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from holdover import __version__
from holdover.cli.asking import Asking, CaOption, CertificateOption, KeyOption
from holdover.cli.ca import app as ca_app
from holdover.cli.handover_commands import app as handover_app
from holdover.cli.journal_commands import app as journal_app
from holdover.cli.pr_commands import app as pr_app
from holdover.cli.stale import StaleOption, stale_of

__all__ = ["main"]

app = typer.Typer(
    name="holdover",
    help="Keeps a virtual machine's SCSI persistent reservations with it when it live-migrates.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(pr_app, name="pr")
app.add_typer(ca_app, name="ca")
app.add_typer(journal_app, name="journal")
app.add_typer(handover_app, name="handover")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"holdover {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def target(
    iqn: Annotated[str, typer.Option(help="The target's iSCSI name.")],
    lun: Annotated[
        list[str],
        typer.Option(help="file=PATH[,size=64M][,serial=TEXT]; LUN numbers count from 0 in the order given."),
    ],
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT to listen at; port 0 takes a free one; repeatable. [default: 127.0.0.1:3260]"
        ),
    ] = None,
    chap: Annotated[
        str | None,
        typer.Option(
            envvar="HOLDOVER_CHAP", help="USER%PASSWORD that initiators must show; others can see it here."
        ),
    ] = None,
    chap_file: Annotated[Path | None, typer.Option(help="A file with USER%PASSWORD in it instead.")] = None,
    mutual_chap: Annotated[
        str | None,
        typer.Option(
            envvar="HOLDOVER_MUTUAL_CHAP", help="USER%PASSWORD that initiators that ask are shown in return."
        ),
    ] = None,
    mutual_chap_file: Annotated[
        Path | None, typer.Option(help="A file with USER%PASSWORD in it instead.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="What is to go wrong, as in latency=20ms,opcode=WRITE_10,probability=0.1; repeatable. "
            "latency=TIME, lose-response, status=busy|reservation-conflict|task-set-full, drop-connection, "
            "power-loss; when=before|after; opcode=, action= (of PERSISTENT RESERVE OUT), lun=, "
            "initiator=PATTERN; probability=, count=, after=."
        ),
    ] = None,
    fault_seed: Annotated[
        int | None, typer.Option(help="Makes probabilities strike alike each time.")
    ] = None,
    control: Annotated[
        Path | None, typer.Option(help="A Unix socket for holdover target-ctl; for this user alone.")
    ] = None,
    json_events: Annotated[
        bool,
        typer.Option(
            "--json-events", help="Print a JSON line for each PERSISTENT RESERVE OUT, session and fault."
        ),
    ] = False,
) -> None:
    """Serve embedded LUNs, which enforce persistent reservations, by iSCSI.

    On a terminal it shows who is logged in, who is registered and who holds the reservation.
    """
    from holdover.cli.target import run

    run(
        listen or ["127.0.0.1:3260"],
        iqn,
        lun,
        faults=fault or [],
        fault_seed=fault_seed,
        control=control,
        json_events=json_events,
        chap=chap,
        chap_file=chap_file,
        mutual_chap=mutual_chap,
        mutual_chap_file=mutual_chap_file,
    )


@app.command(name="target-ctl")
def target_ctl(
    path: Annotated[Path, typer.Argument(help="The socket of holdover target --control.")],
    action: Annotated[str, typer.Argument(help="list, add FAULT, remove ID, clear or status.")],
    value: Annotated[str | None, typer.Argument(metavar="[FAULT|ID]", help="For add and remove.")] = None,
    json: Json = False,
) -> None:
    """Look into a running target, and change its faults."""
    from holdover.cli.target_ctl import run

    run(path, action, value, json)


@app.command()
def agent(
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with everything below, for any number of guests.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="This host's name.")] = None,
    api: Annotated[
        str | None, typer.Option(help="HOST:PORT on loopback or unix:PATH of the agent's API.")
    ] = None,
    initiator: Annotated[str | None, typer.Option(help="The iSCSI initiator name of this host.")] = None,
    guest: Annotated[str | None, typer.Option(help="The guest's name.")] = None,
    machine: Annotated[str | None, typer.Option(help="Its machine type, as QEMU writes it.")] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="scsi-block,drive=iscsi://HOST/IQN/LUN[,id=ID][,migrate-pr=on|off]; repeatable."),
    ] = None,
    export: Annotated[
        str | None, typer.Option(help="HOST:PORT where the guest's QEMU finds its devices.")
    ] = None,
    incoming: Annotated[
        bool, typer.Option("--incoming", help="The guest is to arrive from another host.")
    ] = False,
) -> None:
    """Run the daemon of one host."""
    from holdover.cli.agent import run

    single = {
        "--name": name,
        "--api": api,
        "--initiator": initiator,
        "--guest": guest,
        "--machine": machine,
        "--export": export,
    }
    run(config, single, device or [], incoming)


@app.command(name="pr-helper")
def pr_helper(
    socket: Annotated[
        Path | None,
        typer.Option("--socket", "-k", help="The Unix socket. [default: /run/holdover/pr-helper.sock]"),
    ] = None,
    pidfile: Annotated[
        Path | None,
        typer.Option("--pidfile", "-f", help="Write the process's number there; always done with -d."),
    ] = None,
    daemon: Annotated[bool, typer.Option("--daemon", "-d", help="Run in the background.")] = False,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Become this user, with CAP_SYS_RAWIO alone.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Become this group, likewise.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log errors alone.")] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log each command; -vv: and each connection.")
    ] = 0,
    trace: Annotated[
        str | None,
        typer.Option("--trace", "-T", help="qemu-pr-helper's; refused: there are no trace events."),
    ] = None,
) -> None:
    """Run the persistent reservation helper alone, in place of qemu-pr-helper."""
    from holdover.cli.pr_helper import run

    run(socket, pidfile, daemon, user, group, quiet, verbose, trace)


@app.command()
def status(
    api: Annotated[list[str], typer.Option(help="HOST:PORT or unix:PATH of an agent's API; repeatable.")],
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: Json = False,
) -> None:
    """Show the guests of agents: devices, tracked key, type, APTPL, gate."""
    from holdover.cli.status import run

    run(api, Asking(certificate, key, ca), json)


@app.command()
def migrate(
    guest: Annotated[str, typer.Argument(help="The guest's name.")],
    source: Annotated[str, typer.Option("--from", help="API of the agent that the guest leaves.")],
    destination: Annotated[
        str, typer.Option("--to", help="API of the agent that it goes to, or the name of a [[peer]] there.")
    ],
    source_qmp: Annotated[
        Path | None, typer.Option(help="QMP socket of the QEMU that the guest runs in.")
    ] = None,
    destination_qmp: Annotated[
        Path | None, typer.Option(help="QMP socket of the QEMU that waits for it.")
    ] = None,
    migrate_uri: Annotated[str | None, typer.Option(help="Where that QEMU waits: tcp:HOST:PORT.")] = None,
    destination_waits: Annotated[
        bool | None,
        typer.Option(
            "--destination-waits/--destination-runs",
            help="Whether that QEMU was started with -S, so that reservations move while it loads the guest. "
            "[default: as its command line says]",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds for the copy of the memory, and for the switch-over.")
    ] = 3600,
    stale: StaleOption = "reread",
    fail_after: Annotated[
        str | None, typer.Option(help="Rehearse a failure: roll back after prepare or commit.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Write where the time went; .html: a page; .json: for Perfetto, about:tracing."),
    ] = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: Json = False,
) -> None:
    """Move a guest's reservations to another host; with QMP, live-migrate the guest as well."""
    from holdover.cli.migrate import MigrateOptions, run

    options = MigrateOptions(
        guest,
        source,
        destination,
        source_qmp,
        destination_qmp,
        migrate_uri,
        destination_waits,
        timeout,
        stale_of(stale),
        fail_after,
        trace,
        json,
    )
    run(options, Asking(certificate, key, ca))


@app.command()
def demo(
    vm: Annotated[bool, typer.Option("--vm", help="With two QEMUs and a real Linux guest.")] = False,
    html: Annotated[Path, typer.Option(help="Where to write the timeline.")] = Path("holdover-demo.html"),
    json: Json = False,
) -> None:
    """Show the harm of a migration without Holdover, and then the same with it."""
    from holdover.cli.demo import run

    run(vm=vm, html=html, json=json)


def main() -> None:
    """The entry point; what was asked for wrongly ends in one line and exit status 2."""
    try:
        app()
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
