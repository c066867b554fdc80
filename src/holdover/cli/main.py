"""The command line. Each command is declared here, or in the module of its group.

A command imports the module that does its work only when it runs, so that `holdover --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.main import get_command

from holdover import __version__
from holdover.cli.asking import API, Asking, agent_api
from holdover.cli.ca import app as ca_app
from holdover.cli.command_line import CommandLine, usage_problem
from holdover.cli.completion import COMPLETE, Shell, answer_shell, script
from holdover.cli.errors import refuse
from holdover.cli.fleet.commands import dashboard, top
from holdover.cli.guest.commands import app as guest_app
from holdover.cli.handover.commands import app as handover_app
from holdover.cli.host.commands import app as host_app
from holdover.cli.journal.commands import app as journal_app
from holdover.cli.libvirt.commands import app as libvirt_app
from holdover.cli.migrate.commands import migrate
from holdover.cli.migrate.migrations_commands import app as migrations_app
from holdover.cli.options import (
    DEFAULT_AGENT,
    CaOption,
    CertificateOption,
    JsonOption,
    KeyOption,
)
from holdover.cli.pr.commands import app as pr_app

app = CommandLine("Keeps a virtual machine's SCSI persistent reservations with it when it live-migrates.")
app.add_typer(migrations_app, name="migrations")
app.add_typer(handover_app, name="handover")
app.add_typer(guest_app, name="guest")
app.add_typer(host_app, name="host")
app.add_typer(journal_app, name="journal")
app.add_typer(libvirt_app, name="libvirt")
app.add_typer(ca_app, name="ca")
app.add_typer(pr_app, name="pr")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"holdover {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
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
        typer.Option(help="The least that is logged, whatever [log] of the file says. [default: info]"),
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

    It runs in the foreground until SIGINT or SIGTERM ends it. SIGHUP makes it read its file again.
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


@app.command()
def history(
    name: Annotated[
        str,
        typer.Argument(metavar="GUEST-OR-LUN", help="A guest, or a LUN's designator; all if none is given."),
    ] = "",
    api: Annotated[
        str | None, typer.Option(metavar="ADDRESS", envvar=API, help=f"The API of an agent. {DEFAULT_AGENT}")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="30m, 12h or 2d ago, or a date as 2026-11-27T13:00.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="COUNT", help="The most entries, the newest ones.")] = 1000,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Show what changed reservations, who asked for it, and what the LUN answered."""
    from holdover.cli.history import run

    run(name, agent_api(api), Asking(certificate, key, ca), since, limit, json)


@app.command()
def doctor(
    config: Annotated[Path, typer.Option(metavar="FILE", help="The agent's file.", show_default=True)] = Path(
        "/etc/holdover/agent.toml"
    ),
    json: JsonOption = False,
) -> None:
    """Check everything on which the agent of this host stands, and say what to do.

    It changes nothing. Run it as root on the agent's host. It looks at the configuration, sockets, rights,
    certificates, the agent, peers, clocks, LUNs, multipathd, libvirt and QEMU. The exit status is 1 if
    something is wrong.
    """
    from holdover.cli.doctor import run

    run(config, json)


@app.command()
def status(
    api: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            envvar=API,
            help=f"The API of an agent, unix:PATH or HOST:PORT; repeatable. {DEFAULT_AGENT}",
        ),
    ] = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Show the guests of agents, with their disks, keys and reservations."""
    from holdover.cli.status import run

    run(api or [agent_api(None)], Asking(certificate, key, ca), json)


app.command()(migrate)
app.command()(top)
app.command()(dashboard)


@app.command(name="pr-helper")
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
        typer.Option("--user", "-u", metavar="USER", help="Become this user, and keep CAP_SYS_RAWIO alone."),
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


@app.command(name="lock-server")
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

    It goes on while the agent is down. Guests without a reservation then start as always.
    """
    from holdover.cli.daemons.lock_server import run

    run(socket, agent_socket, state_dir, uid)


@app.command()
def target(
    iqn: Annotated[str, typer.Option(metavar="IQN", help="The iSCSI name of the target.")],
    lun: Annotated[
        list[str],
        typer.Option(
            metavar="LUN",
            help="A LUN: file=FILE[,size=64M][,serial=SERIAL][,readonly=on]. Repeatable; the LUNs count from "
            "0 in the order given.",
        ),
    ],
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="HOST:PORT to listen at; port 0 takes a free port; repeatable. [default: 127.0.0.1:3260]",
        ),
    ] = None,
    chap: Annotated[
        str | None,
        typer.Option(
            metavar="CREDENTIALS",
            envvar="HOLDOVER_CHAP",
            help="USER%PASSWORD that an initiator must show. Others can see them on the command line.",
        ),
    ] = None,
    chap_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the USER%PASSWORD of --chap.")
    ] = None,
    chap_md5: Annotated[
        bool,
        typer.Option(
            "--chap-md5",
            help="Accept MD5 for CHAP. Initiators on libiscsi before 1.20, such as QEMU, have no other "
            "algorithm.",
        ),
    ] = False,
    mutual_chap: Annotated[
        str | None,
        typer.Option(
            metavar="CREDENTIALS",
            envvar="HOLDOVER_MUTUAL_CHAP",
            help="USER%PASSWORD that the target shows to an initiator that asks for them.",
        ),
    ] = None,
    mutual_chap_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the USER%PASSWORD of --mutual-chap.")
    ] = None,
    max_memory: Annotated[
        int,
        typer.Option(metavar="MEBIBYTES", min=32, help="Memory for the data of commands that are under way."),
    ] = 256,
    max_sessions: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            min=1,
            max=65535,
            help="How many sessions there may be. [default: 256 for each LUN]",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAULT",
            help="A failure to cause, such as latency=20ms,opcode=WRITE_10,probability=0.1; repeatable. "
            "What happens: latency=TIME, lose-response, status=busy|reservation-conflict|task-set-full, "
            "drop-connection or power-loss; when=before|after. To which commands: opcode=, action= (of "
            "PERSISTENT RESERVE OUT), lun=, initiator=PATTERN. How often: probability=, count=, after=.",
        ),
    ] = None,
    fault_seed: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="The seed of probability=: the same seed, the same failures."),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(
            metavar="SOCKET", help="Make a Unix socket for holdover target-ctl, for this user alone."
        ),
    ] = None,
    json_events: Annotated[
        bool,
        typer.Option(
            "--json-events", help="Print a line of JSON for each PERSISTENT RESERVE OUT, session and failure."
        ),
    ] = False,
) -> None:
    """Serve LUNs that enforce persistent reservations, by iSCSI.

    On a terminal it shows who is logged in, who is registered and who holds the reservation. It runs in the
    foreground until SIGINT, SIGTERM or SIGHUP ends it.
    """
    from holdover.cli.daemons.target import run

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
        chap_md5=chap_md5,
        mutual_chap=mutual_chap,
        mutual_chap_file=mutual_chap_file,
        max_sessions=max_sessions,
        max_memory=max_memory,
    )


@app.command(name="target-ctl")
def target_ctl(
    path: Annotated[
        Path, typer.Argument(metavar="SOCKET", help="The socket that holdover target --control made.")
    ],
    action: Annotated[
        Literal["list", "add", "remove", "clear", "status"],
        typer.Argument(
            metavar="ACTION",
            help="list: show the faults. add FAULT: cause a failure, written as for --fault. remove ID: end "
            "one. clear: end all. status: show LUNs, sessions and faults.",
        ),
    ],
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="The FAULT to add, or the ID to remove.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the state of a running target, and change its faults."""
    from holdover.cli.daemons.target_ctl import run

    run(path, action, value, json)


@app.command()
def demo(
    vm: Annotated[bool, typer.Option("--vm", help="Use two QEMUs and a real Linux guest.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the timeline, as a page. "
            "[default: holdover-demo.html, with --vm holdover-demo-vm.html]",
        ),
    ] = None,
    install: Annotated[
        bool,
        typer.Option("--install", help="With --vm: install missing Debian packages without asking."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the harm of a migration without Holdover, and then the same migration with it."""
    from holdover.cli.demo import run

    run(vm=vm, html=html, json=json, install=install)


@app.command()
def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC", help="A topic, or a message that you saw; without it: all topics."),
    ] = None,
) -> None:
    """Say what a refusal or an alarm means, why it happens, and what to do.

    A failed command names its topic; the log does so in the field explain. Needs no agent and no network.
    """
    from holdover.cli.explaining import show

    show(" ".join(words or []))


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the script that makes a shell complete the commands of holdover.

    bash: source <(holdover completion bash). zsh: the same after compinit. fish: holdover completion fish |
    source.
    """
    print(script(shell))


def main() -> None:
    """The entry point. A wrong command line ends in one line on standard error, and exit status 2."""
    command = get_command(app)
    if os.environ.get(COMPLETE):
        answer_shell(command)
    try:
        with command.make_context("holdover", sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except typer.TyperException as error:
        refuse(usage_problem(error))
    except BrokenPipeError:
        # The rest of the buffer has no reader either, so Python must not fail again when it writes it at its
        # end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
