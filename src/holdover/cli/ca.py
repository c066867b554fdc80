"""``holdover ca``: a small authority for sites that have none, and a way to look at certificates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdover.cli.command_line import CommandLine
from holdover.cli.errors import refuse
from holdover.cli.options import JsonOption

if TYPE_CHECKING:
    from holdover.pki.authority import Issued


app = CommandLine("Make and show the certificates by which hosts and operators identify each other.")

_Replace = Annotated[bool, typer.Option("--replace", help="Replace a file that exists.")]
_Days = Annotated[int, typer.Option(metavar="DAYS", min=1, help="How long it is valid.")]


@app.command()
def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIRECTORY", help="Where to keep the authority; it is made if it is not there."
        ),
    ],
    days: _Days = 3650,
    replace: _Replace = False,
    json: JsonOption = False,
) -> None:
    """Make an authority: ca.crt is for every host, and ca.key is secret."""
    import datetime

    from holdover.pki.authority import AuthorityError
    from holdover.pki.authority import init as make

    try:
        made = make(folder, days, datetime.datetime.now(datetime.UTC), replace=replace)
    except AuthorityError as error:
        refuse(str(error), 1)
    if json:
        _print_json(made)
        return
    print(f"{_done(made)} the authority in {folder}, good until {made.ends:%Y-%m-%d}.")
    print(f"Keep {made.key} secret: whoever has it can pass for any host and any operator.")
    print(f"Next: holdover ca issue HOST --ca {folder}")


@app.command()
def issue(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The name of a host, as in its agent's file, or the name of an operator."
        ),
    ],
    ca: Annotated[Path, typer.Option(metavar="DIRECTORY", help="Where the authority is kept.")],
    address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A host name or IP address by which operators reach the agent, if that is not NAME; "
            "repeatable.",
        ),
    ] = None,
    days: _Days = 365,
    replace: _Replace = False,
    json: JsonOption = False,
) -> None:
    """Make a certificate and its key for a host or an operator: NAME.crt and NAME.key."""
    import datetime

    from holdover.pki.authority import AuthorityError
    from holdover.pki.authority import issue as make

    try:
        made = make(name, ca, address or [], days, datetime.datetime.now(datetime.UTC), replace=replace)
    except AuthorityError as error:
        refuse(str(error), 1)
    if json:
        _print_json(made)
        return
    print(f"{_done(made)} the certificate of {name}, good until {made.ends:%Y-%m-%d}.")
    print("For a host: copy these files there, and name them in its agent's file (SIGHUP reads them again):")
    print(f'  [api]\n  certificate = "{made.certificate}"\n  key = "{made.key}"\n  ca = "{made.ca}"')
    print("For an operator: write the name into the agents' files, and give the certificate to each command:")
    print(f'  [api]\n  operators = ["{name}"]')
    print(
        f"  holdover status --certificate {made.certificate} --key {made.key} --ca {made.ca} --api HOST:PORT"
    )


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Certificates in PEM.")],
    json: JsonOption = False,
) -> None:
    """Show whom certificates name, and how many days they have left."""
    import datetime

    from rich.text import Text

    from holdover.pki.certificate import WARN_DAYS, CertificateError, describe, load_certificates
    from holdover.terminal import PlainTable, screen

    now = datetime.datetime.now(datetime.UTC)
    try:
        found = [(file, describe(each, now)) for file in files for each in load_certificates(file)]
    except CertificateError as error:
        refuse(str(error), 1)
    if json:
        _print_json([each for _, each in found])
        return
    table = PlainTable("FILE", "NAME", "ALL NAMES", "KIND", "ISSUER", "ENDS", "DAYS LEFT")
    for file, each in found:
        style = "red" if each.days_left < WARN_DAYS else "green"
        table.add_row(
            str(file),
            each.name,
            ", ".join(each.names),
            "authority" if each.authority else "host or operator",
            each.issuer,
            f"{each.ends:%Y-%m-%d %H:%M} UTC",
            Text(str(each.days_left), style),
        )
    screen().print(table, crop=False)


def _done(made: Issued) -> str:
    return "Replaced" if made.replaced else "Made"


def _print_json(what: object) -> None:
    import msgspec

    print(msgspec.json.encode(what, enc_hook=str).decode())
