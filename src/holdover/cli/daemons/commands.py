"""The commands that run as services, declared: the agent, the helper alone, and the lock server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holdover.cli.options import DEFAULT_AGENT


def agent(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The agent's file, in TOML. All other options are for one guest without it."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="HOST", help="The name of this host.")] = None,
    api: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where the API listens: unix:PATH for operators, HOST:PORT for peer hosts; repeatable. "
            + DEFAULT_AGENT,
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="This host's certificate (see holdover ca issue); HOST:PORT needs it."
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of that certificate.")] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The authority of the other hosts' certificates.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="NAME=HOST:PORT of a host to hand guests over to, and to take them from; repeatable.",
        ),
    ] = None,
    initiator: Annotated[
        str | None, typer.Option(metavar="IQN", help="The iSCSI initiator name of this host.")
    ] = None,
    guest: Annotated[str | None, typer.Option(metavar="GUEST", help="The guest's name.")] = None,
    machine: Annotated[
        str | None, typer.Option(metavar="MACHINE", help="The guest's machine type, as QEMU writes it.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="A disk of the guest: scsi-block,drive=iscsi://HOST/IQN/LUN[,id=ID][,migrate-pr=on|off]; "
            "repeatable.",
        ),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="HOST:PORT at which the guest's QEMU finds its disks."),
    ] = None,
    export_open: Annotated[
        bool,
        typer.Option(
            "--export-open", help="Let everybody log in to the export, without CHAP; on loopback alone."
        ),
    ] = False,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Where the journal and the CHAP secret of the export are kept. [default: /var/lib/holdover]",
        ),
    ] = None,
    incoming: Annotated[
        bool,
        typer.Option(
            "--incoming",
            help="The guest is going to arrive from another host. An agent with a record of the guest goes "
            "by its record.",
        ),
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(
            help="The lowest level that is logged, whatever [log] of the file says. [default: info]"
        ),
    ] = None,
    log_format: Annotated[
        Literal["auto", "console", "json", "journald"] | None,
        typer.Option(
            help="The form of the log. auto is journald under systemd, else console. [default: auto]"
        ),
    ] = None,
    ephemeral: Annotated[
        bool,
        typer.Option(
            "--ephemeral",
            help="Keep the journal in memory: the agent forgets when it ends. For trying things out.",
        ),
    ] = False,
) -> None:
    """Run the agent of this host.

    It runs in the foreground until SIGINT or SIGTERM ends it. SIGHUP makes it read its file again. SIGUSR2
    makes it start its successor, which replaces it.
    """
    from holdover.cli.daemons.agent import ApiOptions, Export, LogOptions, run

    single = {
        "--name": name,
        "--initiator": initiator,
        "--guest": guest,
        "--machine": machine,
        "--export": export,
    }
    api_options = ApiOptions(tuple(api or ()), certificate, key, ca, tuple(peer or ()))
    export_options, log = Export(export_open, state_dir), LogOptions(log_level, log_format)
    run(config, single, api_options, export_options, device or [], incoming, ephemeral, log)


def pr_helper(
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket",
            "-k",
            metavar="SOCKET",
            help="The Unix socket to listen at. [default: /run/holdover/pr-helper.sock]",
        ),
    ] = None,
    pidfile: Annotated[
        Path | None,
        typer.Option(
            "--pidfile",
            "-f",
            metavar="FILE",
            help="Write the number of the process there. With -d the default is /run/holdover/pr-helper.pid.",
        ),
    ] = None,
    daemon: Annotated[bool, typer.Option("--daemon", "-d", help="Run in the background.")] = False,
    user: Annotated[
        str | None,
        typer.Option("--user", "-u", metavar="USER", help="Become this user, and keep only CAP_SYS_RAWIO."),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", "-g", metavar="GROUP", help="Become a member of this group.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log errors alone.")] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", metavar="", count=True, help="Log each command; -vv: each connection as well."
        ),
    ] = 0,
    trace: Annotated[
        str | None,
        typer.Option(
            "--trace",
            "-T",
            metavar="EVENTS",
            help="An option of qemu-pr-helper. It is refused: there are no trace events here.",
        ),
    ] = None,
) -> None:
    """Run the persistent reservation helper alone, in place of qemu-pr-helper."""
    from holdover.cli.daemons.pr_helper import run

    run(socket, pidfile, daemon, user, group, quiet, verbose, trace)


def lock_server(
    socket: Annotated[
        Path,
        typer.Option(
            metavar="SOCKET",
            help="The Unix socket at which libvirt expects virtlockd, unless systemd has opened it.",
        ),
    ] = Path("/run/libvirt/virtlockd-sock"),
    agent_socket: Annotated[
        Path, typer.Option(metavar="SOCKET", help="The lock socket of the agent: lock_socket in its file.")
    ] = Path("/run/holdover/lock.sock"),
    state_dir: Annotated[
        Path, typer.Option(metavar="DIRECTORY", help="Where the agent keeps the list of its guests.")
    ] = Path("/var/lib/holdover"),
    uid: Annotated[
        int, typer.Option(metavar="UID", help="The user of libvirtd, the only one who may ask.")
    ] = 0,
) -> None:
    """Answer libvirt in place of virtlockd, with the agent's help.

    It also answers while the agent is down. Guests without a reservation then start as always.
    """
    from holdover.cli.daemons.lock_server import run

    run(socket, agent_socket, state_dir, uid)
