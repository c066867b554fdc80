"""``holdover ca``: a small authority, for those who have none, and a look into certificates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdover.cli.errors import refuse

if TYPE_CHECKING:
    from holdover.agent.authority import Issued

__all__ = ["app"]

app = typer.Typer(
    help="Certificates by which agents and operators know each other.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
_Replace = Annotated[bool, typer.Option("--replace", help="Write over what is there.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where it is kept; made if need be.")],
    days: Annotated[int, typer.Option(help="How long it is good.")] = 3650,
    replace: _Replace = False,
    json: _Json = False,
) -> None:
    """Make an authority: ca.crt, which every host gets, and ca.key, which nobody gets."""
    import datetime

    from holdover.agent.authority import AuthorityError
    from holdover.agent.authority import init as make

    try:
        made = make(folder, days, datetime.datetime.now(datetime.UTC), replace=replace)
    except AuthorityError as error:
        refuse(str(error), 1)
    if json:
        _print_json(made)
        return
    print(f"{_done(made)} the authority in {folder}, good until {made.ends:%Y-%m-%d}.")
    print(f"Keep {made.key} to yourself: whoever has it can pass for any host and operator.")
    print(f"Next: holdover ca issue HOST --ca {folder}")


@app.command()
def issue(
    name: Annotated[
        str,
        typer.Argument(metavar="HOST", help="The name of a host, as in its agent's file, or of an operator."),
    ],
    ca: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the authority.")],
    address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME_OR_IP", help="By which operators reach the agent, where it is not HOST; repeatable."
        ),
    ] = None,
    days: Annotated[int, typer.Option(help="How long it is good.")] = 365,
    replace: _Replace = False,
    json: _Json = False,
) -> None:
    """Make a certificate and its key for a host or an operator: HOST.crt and HOST.key."""
    import datetime

    from holdover.agent.authority import AuthorityError
    from holdover.agent.authority import issue as make

    try:
        made = make(name, ca, address or [], days, datetime.datetime.now(datetime.UTC), replace=replace)
    except AuthorityError as error:
        refuse(str(error), 1)
    if json:
        _print_json(made)
        return
    print(f"{_done(made)} the certificate of {name}, good until {made.ends:%Y-%m-%d}.")
    print("For a host, bring these files there and name them in its agent's file (SIGHUP renews):")
    print(f'  [api]\n  certificate = "{made.certificate}"\n  key = "{made.key}"\n  ca = "{made.ca}"')
    print("For an operator, name it in the agents' files, and give the files to the commands:")
    print(f'  [api]\n  operators = ["{name}"]')
    print(
        f"  holdover status --certificate {made.certificate} --key {made.key} --ca {made.ca} --api HOST:PORT"
    )


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Certificates in PEM.")],
    json: _Json = False,
) -> None:
    """Tell whom certificates name, and how many days they have left."""
    import datetime

    from holdover.agent.certificate import WARN_DAYS, CertificateError, describe, load_certificates
    from holdover.cli.console import plain_table, screen

    now = datetime.datetime.now(datetime.UTC)
    try:
        found = [(file, describe(each, now)) for file in files for each in load_certificates(file)]
    except CertificateError as error:
        refuse(str(error), 1)
    if json:
        _print_json([each for _, each in found])
        return
    table = plain_table("FILE", "NAME", "ALL NAMES", "KIND", "ISSUER", "ENDS", "DAYS LEFT")
    for file, each in found:
        style = "red" if each.days_left < WARN_DAYS else "green"
        table.add_row(
            str(file),
            each.name,
            ", ".join(each.names),
            "authority" if each.authority else "host or operator",
            each.issuer,
            f"{each.ends:%Y-%m-%d %H:%M} UTC",
            f"[{style}]{each.days_left}[/]",
        )
    screen().print(table)


def _done(made: Issued) -> str:
    return "Replaced" if made.replaced else "Made"


def _print_json(what: object) -> None:
    import msgspec

    print(msgspec.json.encode(what, enc_hook=str).decode())
