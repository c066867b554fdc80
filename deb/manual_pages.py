"""The manual pages, made from the command line: one for `holdover`, and one for each of its commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pages.command_tree import Command, commands

_FILES = (
    ("/etc/holdover/agent.toml", "the agent's file"),
    ("/run/holdover/api.sock", "the socket at which the agent of this host is asked"),
    ("/run/holdover/pr-helper.sock", "the socket of the persistent reservation helper"),
    ("/var/lib/holdover", "the journal, and the CHAP secrets of exports"),
    ("/usr/share/doc/holdover", "the documentation"),
)
_STATUSES = (
    ("0", "The request was done."),
    ("1", "The request was not done. The text says what is true now, and the next command."),
    ("2", "The command line is wrong. The command did nothing."),
    ("3", "It is not known where the guest's reservations are. Start no second copy of the guest."),
)


def manual_pages(version: str, date: str) -> dict[str, str]:
    """Each page by its file's name, `holdover-handover.1`; ``date`` is that of the release."""
    every = commands()
    pages = {"holdover.1": _page(every[0], every[1:], version, date)}
    for command in every[1:]:
        if len(command.words) == 1:
            inside = [each for each in every if each.words[:1] == command.words and each != command]
            pages[f"holdover-{command.words[0]}.1"] = _page(command, inside, version, date)
    return pages


def _page(command: Command, inside: Sequence[Command], version: str, date: str) -> str:
    title = command.name.replace(" ", "-")
    lines = [
        f'.TH "{_text(title.upper())}" "1" "{date}" "Holdover {version}" "Holdover"',
        ".ad l",  # long names of options leave holes in lines that reach both edges
        ".SH NAME",
        f"{_text(title)} \\- {_text(_without_stop(command.summary))}",
        ".SH SYNOPSIS",
        *_synopsis(command),
    ]
    if command.more:
        lines += [".SH DESCRIPTION", *_paragraphs(command.more)]
    lines += _parameters(command)
    if not command.words:
        lines += [".SH COMMANDS"]
        lines += _list((f"{each.name}", each.summary) for each in inside if len(each.words) == 1)
        lines += [".SH FILES", *_list(_FILES)]
    elif inside:
        lines += [".SH COMMANDS"]
        for each in inside:
            lines += [f'.SS "{_text(each.name)}"', *_synopsis(each), *_paragraphs([each.summary, *each.more])]
            lines += _parameters(each, with_headings=False)
    lines += [".SH EXIT STATUS", *_list(_STATUSES)]
    lines += [".SH SEE ALSO", ".BR holdover (1)" if command.words else "/usr/share/doc/holdover"]
    return "\n".join(lines) + "\n"


def _synopsis(command: Command) -> list[str]:
    rest = command.usage.removeprefix(command.name).strip()
    return [f".B {_text(command.name)}", f".I {_text(rest)}", ".br"]


def _parameters(command: Command, *, with_headings: bool = True) -> Iterator[str]:
    for title, listed in (("ARGUMENTS", command.arguments), ("OPTIONS", command.options)):
        if listed:
            if with_headings:
                yield f".SH {title}"
            yield from _list((each.shown, each.help) for each in listed)


def _list(rows: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> Iterator[str]:
    for head, text in rows:
        yield from (".TP", f"\\fB{_text(head)}\\fR", _line(text))


def _paragraphs(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield from (".PP", _line(text))


def _without_stop(text: str) -> str:
    return text.removesuffix(".")


def _line(text: str) -> str:
    """A line of text; one that begins with a dot or a quote would be a request of roff."""
    shown = _text(" ".join(text.split()))
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


def _text(text: str) -> str:
    marks = {"\\": "\\e", "-": "\\-", "…": "..."}
    return "".join(marks.get(each, each) for each in text)
