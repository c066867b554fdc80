"""``--stale``, for commands that prepare a handover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdover.cli.errors import refuse

if TYPE_CHECKING:
    from holdover.agent.api import Stale

__all__ = ["StaleOption", "stale_of"]

StaleOption = Annotated[
    str,
    typer.Option(
        "--stale",
        help="Where what is tracked of a LUN may be out of date, or is other than the LUN says: refuse to "
        "begin; reread: take what the LUN says; force: as reread, but where the LUN does not tell whose its "
        "reservation is (a third node has the guest's key), take what was tracked last, if the LUN holds "
        "that type.",
    ),
]


def stale_of(text: str) -> Stale:
    """What was given; a wrong word ends the command."""
    from holdover.agent.api import Stale

    try:
        return Stale(text)
    except ValueError:
        refuse(f"--stale {text}: choose one of {', '.join(each.value for each in Stale)}")
