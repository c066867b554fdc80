"""The command line. Each command is declared here, or in the module of its group.

A command imports the module that does its work only when it runs, so that `holdover --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from holdover import __version__
from holdover.cli.asking import API, BY_OPTIONS, Asking, agent_api
from holdover.cli.ca import app as ca_app
from holdover.cli.command_line import CommandLine, usage_problem
from holdover.cli.completion import COMPLETE, Shell, answer_shell, script
from holdover.cli.daemons.commands import agent, lock_server, pr_helper
from holdover.cli.daemons.target_commands import target, target_ctl
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
    JsonOption,
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


app.command()(agent)


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
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Show what changed reservations, who asked for it, and what the LUN answered."""
    from holdover.cli.history import run

    run(name, agent_api(api), asking, since, limit, json)


@app.command()
def doctor(
    config: Annotated[Path, typer.Option(metavar="FILE", help="The agent's file.", show_default=True)] = Path(
        "/etc/holdover/agent.toml"
    ),
    json: JsonOption = False,
) -> None:
    """Check everything that the agent of this host needs, and say what to do.

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
    asking: Asking = BY_OPTIONS,
    json: JsonOption = False,
) -> None:
    """Show the guests of agents, with their disks, keys and reservations."""
    from holdover.cli.status import run

    run(api or [agent_api(None)], asking, json)


app.command()(migrate)
app.command()(top)
app.command()(dashboard)
app.command(name="pr-helper")(pr_helper)
app.command(name="lock-server")(lock_server)
app.command()(target)
app.command(name="target-ctl")(target_ctl)


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
