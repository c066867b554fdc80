"""What all commands share: how their help looks, and what a wrong command line is answered with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from holdover.cli.asking import Asking
from holdover.cli.options import CaOption, CertificateOption, KeyOption

_WHOLE = 1000
"""More characters than the first sentence of any help has: the list of commands never cuts it."""

_NOISE = "Value error, "
"""What pydantic, by which typer converts values, puts before each message of a choice."""


class HelpfulCommand(TyperCommand):
    """A command whose help shows each argument by its metavar alone, as manual pages do."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002
        """The words after the command's name in its usage line."""
        return ["[OPTIONS]", *(_in_usage(each) for each in self.params if isinstance(each, TyperArgument))]

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the arguments and the options."""
        arguments = [each for each in self.params if isinstance(each, TyperArgument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl([(_metavar(each), each.help or "") for each in arguments])
        options = [record for each in self.get_params(ctx) if (record := _option(each, ctx)) is not None]
        with formatter.section("Options"):
            formatter.write_dl(options)


class HelpfulGroup(TyperGroup):
    """A group of commands. Without a command it prints its help and exits with 0."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Print the help if there is nothing to parse."""
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """A command by its name. The error for an unknown name lists the names that there are."""
        found = super().get_command(ctx, cmd_name)
        if found is None and not ctx.resilient_parsing and not cmd_name.startswith("-"):
            names = self.list_commands(ctx)
            near = get_close_matches(cmd_name, names, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            ctx.fail(f"no such command {cmd_name!r}{meant}; the commands are {', '.join(names)}")
        return found

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write each command with the whole first sentence of its help."""
        rows = [(name, self.commands[name].get_short_help_str(_WHOLE)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class CommandLine(typer.Typer):
    """A group of commands that are declared as functions."""

    def __init__(self, help: str) -> None:
        super().__init__(
            help=help,
            cls=HelpfulGroup,
            context_settings={"help_option_names": ["-h", "--help"]},
            add_completion=False,
            rich_markup_mode=None,
            suggest_commands=False,
            pretty_exceptions_enable=False,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Declare a function as a command. A parameter ``asking`` becomes three options of the command."""
        declare = super().command(name, cls=HelpfulCommand, **settings)

        def declared(function: Callable[..., None]) -> Callable[..., None]:
            declare(_with_credentials(function))
            return function

        return declared


def _with_credentials(function: Callable[..., None]) -> Callable[..., None]:
    """The function with the options --certificate, --key and --ca in place of its parameter ``asking``."""
    signature = inspect.signature(function, eval_str=True)
    if "asking" not in signature.parameters:
        return function

    @functools.wraps(function)
    def command(*, certificate: CertificateOption, key: KeyOption, ca: CaOption, **others: Any) -> None:
        function(asking=Asking(certificate, key, ca), **others)

    options = {"certificate": CertificateOption, "key": KeyOption, "ca": CaOption}
    parameters: list[inspect.Parameter] = []
    for each in signature.parameters.values():
        if each.name == "asking":
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters += [
                inspect.Parameter(name, kind, default=None, annotation=option)
                for name, option in options.items()
            ]
        else:
            parameters.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def usage_problem(error: typer.TyperException) -> str:
    """What is wrong with a command line, as one line that names the command and its help."""
    text = " ".join(error.format_message().split()).rstrip(".").replace(_NOISE, "")
    text = f"{text[:1].lower()}{text[1:]}"
    ctx = getattr(error, "ctx", None)
    return text if ctx is None else f"{text}; {ctx.command_path} -h shows what it takes"


def _metavar(argument: TyperArgument) -> str:
    return f"{argument.metavar or argument.name.upper()}{'...' if argument.nargs != 1 else ''}"


def _in_usage(argument: TyperArgument) -> str:
    return _metavar(argument) if argument.required else f"[{_metavar(argument)}]"


def _option(parameter: Any, ctx: typer.Context) -> tuple[str, str] | None:
    """How the help shows an option, if it is one."""
    if isinstance(parameter, TyperArgument):
        return None
    record: tuple[str, str] | None = parameter.get_help_record(ctx)
    return record
