"""The command line as data, for manual pages and reference pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperArgument
from typer.main import get_command

from holdover.cli.main import app


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument or an option of a command.

    Attributes:
        shown: How it is written: `GUEST`, `--to HOST`.
        help: What it means, in sentences, with its default and its environment variable.
    """

    shown: str
    help: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `holdover`.

    Attributes:
        words: Its name: ("handover", "prepare"). The command line itself has none.
        help: What it does: the first sentence, then more paragraphs.
        is_group: Whether it has commands of its own.
    """

    words: tuple[str, ...]
    help: str
    arguments: tuple[Parameter, ...]
    options: tuple[Parameter, ...]
    is_group: bool

    @property
    def name(self) -> str:
        """As it is typed: `holdover handover prepare`."""
        return " ".join(("holdover", *self.words))

    @property
    def summary(self) -> str:
        """The first paragraph of its help."""
        return " ".join(self.help.partition("\n\n")[0].split())

    @property
    def more(self) -> tuple[str, ...]:
        """The paragraphs of its help after the first."""
        return tuple(" ".join(each.split()) for each in self.help.split("\n\n")[1:] if each.strip())

    @property
    def usage(self) -> str:
        """How it is typed, with its arguments."""
        rest = "COMMAND" if self.is_group else " ".join(each.shown for each in self.arguments)
        return f"{self.name} [OPTIONS] {rest}".strip()


def commands() -> list[Command]:
    """Every command in the order of the command line's own help."""
    return [_command(words, each) for words, each in _walk(get_command(app), ())]


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _walk(each, (*words, name))


def _command(words: tuple[str, ...], command: Any) -> Command:
    ctx = typer.Context(command, info_name=" ".join(("holdover", *words)), help_option_names=["-h", "--help"])
    options = [each for each in command.get_params(ctx) if not isinstance(each, TyperArgument)]
    records = [record for each in options if (record := each.get_help_record(ctx)) is not None]
    return Command(
        words,
        (command.help or "").replace("\b", "").strip(),
        tuple(_argument(each) for each in command.params if isinstance(each, TyperArgument)),
        tuple(Parameter(shown, " ".join(text.split())) for shown, text in records),
        hasattr(command, "commands"),
    )


def _argument(each: TyperArgument) -> Parameter:
    name = each.metavar or (each.name or "").upper()
    return Parameter(name + ("..." if each.nargs != 1 else ""), each.help or "")
