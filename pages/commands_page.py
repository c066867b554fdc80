"""The reference of the command line, made from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator

from pages.command_tree import Command, Parameter, commands

_HEAD = """# Commands

Every command with its arguments and options, made from the command line itself (`make reference`). `-h`
shows the same, and so does `man holdover` where the package is installed. [Exit statuses](exit-status.md)
says what the status of each command means.
"""


def commands_page() -> str:
    """The whole page."""
    every = [each for each in commands() if each.words]
    rows = "".join(
        f"| [`{each.name}`](#{each.name.replace(' ', '-')}) | {_cell(each.summary)} |\n" for each in every
    )
    index = f"\n| command | what it does |\n| --- | --- |\n{rows}"
    return _HEAD + index + "".join(line for each in every for line in _part(each))


def _part(command: Command) -> Iterator[str]:
    yield f"\n## {command.name}\n\n{_plain(command.summary)}\n"
    yield from (f"\n{_plain(each)}\n" for each in command.more)
    yield f"\n```\n{command.usage}\n```\n"
    shown = [*command.arguments, *(each for each in command.options if "--help" not in each.shown)]
    if shown:
        yield "\n| argument or option | meaning |\n| --- | --- |\n"
        yield from (_row(each) for each in shown)


def _row(each: Parameter) -> str:
    return f"| `{_code(each.shown)}` | {_cell(each.help)} |\n"


def _code(text: str) -> str:
    return text.replace("|", "\\|")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """A help's text as Markdown: no mark of it means something else there."""
    return text.replace("<", "&lt;").replace("[[", "\\[\\[").replace("*", "\\*").replace("_", "\\_")
