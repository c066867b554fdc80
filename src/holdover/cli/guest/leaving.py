"""``holdover guest release`` and ``holdover guest forget``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import msgspec

from holdover.api.client import AgentClient
from holdover.api.placement_documents import PlacementResult
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.cli.one_agent import ask_agent


def release(guest: str, api: str, asking: Asking, *, yes: bool, json: bool) -> None:
    """Ask whether to go on, then have the agent release the guest."""
    if not yes:
        if not sys.stdin.isatty():
            refuse(
                f"nothing was changed: this removes the registrations of guest {guest}, and so a reservation "
                "that it holds ends; without a terminal, give --yes"
            )
        print(f"A reservation that guest {guest} holds ends with its registrations.")
        answer = input(f"Remove the registrations of guest {guest} from its LUNs? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            refuse("nothing was changed", 1)
    _do(api, asking, json, lambda client: client.release_guest(guest))


def forget(guest: str, api: str, asking: Asking, json: bool) -> None:
    """Have the agent forget the guest."""
    _do(api, asking, json, lambda client: client.forget_guest(guest))


def _do(
    api: str, asking: Asking, json: bool, what: Callable[[AgentClient], Awaitable[PlacementResult]]
) -> None:
    done = ask_agent(api, asking, what)
    print(msgspec.json.encode(done).decode() if json else f"{done.text}.")
