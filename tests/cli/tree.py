"""Every command that `holdover` has, as the command line itself declares them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from holdover.cli.main import app


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _walk(each, (*path, name))


def commands() -> dict[str, Any]:
    """Each command that does something, by its words: "handover prepare". A group may do something alone."""
    found = dict(_walk(get_command(app), ()))
    return {
        " ".join(path): each for path, each in found.items() if getattr(each, "invoke_without_command", True)
    }


def groups() -> dict[str, Any]:
    """Each group of commands, by its words; the outermost group has none."""
    found = dict(_walk(get_command(app), ()))
    return {" ".join(path): each for path, each in found.items() if hasattr(each, "commands")}
