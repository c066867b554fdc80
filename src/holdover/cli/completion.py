"""Completion in the shell: the script for each shell, and the names that it offers.

The names of guests, peer hosts and handovers come from the agent of this machine if it answers at once, else
from its file. A name that the shell could take for something else than a word is not offered.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NoReturn

import typer

from holdover.cli.asking import API, DEFAULT_API

COMPLETE = "_HOLDOVER_COMPLETE"
"""The environment variable by which a shell's script asks for completions."""

Shell = Literal["bash", "zsh", "fish"]

_AGENT_FILE = Path("/etc/holdover/agent.toml")
_SECONDS = 0.5
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]*")


def script(shell: Shell) -> str:
    """The script that makes a shell complete the commands."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    text: str = get_completion_script(prog_name="holdover", complete_var=COMPLETE, shell=shell)
    return text


def answer_shell(command: Any) -> NoReturn:
    """Print what may come next on the command line that the shell's script passes, and exit."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
    command.main(prog_name="holdover", complete_var=COMPLETE)
    sys.exit(0)


def complete_guest(ctx: typer.Context) -> list[str]:
    """The names of the guests."""
    return _words(guest.get("name") for guest in _host(ctx)["guests"])


def complete_handover(ctx: typer.Context) -> list[str]:
    """The ids of the handovers that are under way: of one guest, if the command line names it."""
    wanted = ctx.params.get("guest")
    guests = _host(ctx)["guests"]
    return _words(each.get("handover_id") for each in guests if wanted in (None, each.get("name")))


def complete_peer(ctx: typer.Context) -> list[str]:
    """The names of the peer hosts."""
    return _words(peer.get("name") for peer in _host(ctx)["peers"])


def _words(names: Iterable[Any]) -> list[str]:
    return [name for name in names if isinstance(name, str) and _WORD.fullmatch(name)]


def _host(ctx: typer.Context) -> dict[str, list[dict[str, Any]]]:
    """The guests and peers of a host. Both lists are empty if nobody can tell them."""
    given = ctx.params.get("at") or ctx.params.get("source") or os.environ.get(API)
    try:
        told = _from_agent(given or DEFAULT_API)
    except (OSError, ValueError):
        told = {} if given else _from_file()
    if not isinstance(told, dict):
        told = {}
    return {name: _sections(told.get(name)) for name in ("guests", "peers")}


def _sections(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _from_agent(api: str) -> Any:
    """What the agent at a Unix socket says of its host.

    Raises:
        OSError: It does not answer in time.
        ValueError: The address is no Unix socket, or the answer is no document.
    """
    if not api.startswith("unix:"):
        raise ValueError(api)
    answer, ends = b"", time.monotonic() + _SECONDS
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(api.removeprefix("unix:").removeprefix("//"))
        connection.sendall(b"GET /guests HTTP/1.0\r\nHost: localhost\r\n\r\n")
        while piece := connection.recv(1 << 16):
            answer += piece
            connection.settimeout(max(ends - time.monotonic(), 0.001))
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def _from_file() -> dict[str, Any]:
    """What the agent's file says; nothing if this user cannot read it."""
    try:
        found = tomllib.loads(_AGENT_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {"guests": found.get("guest"), "peers": found.get("peer")}
