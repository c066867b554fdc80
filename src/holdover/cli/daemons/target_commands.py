"""The commands of a target that enforces persistent reservations, declared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holdover.cli.options import JsonOption


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
