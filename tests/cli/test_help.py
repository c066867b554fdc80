"""The help of every command: it is there, by -h too, and a reader finds words in it and no types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from typer.core import TyperArgument, TyperOption

from holdover.api.documents import Stale
from holdover.cli import asking, main
from holdover.cli.options import StalePolicy
from holdover.cli.pr.commands import TypeName
from holdover.cli.pr.pr import TYPES
from holdover.config import agent_file
from tests.cli.tree import commands, groups

_WORD = re.compile(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)*")
_TYPES = {"TEXT", "STR", "STRING", "INT", "INTEGER", "FLOAT", "NUMBER-RANGE", "PATH", "VALUE-TYPE"}
_SENTENCE = re.compile(r"[A-Z]([^.]|\.(?=\S))*\.")
DOCS = Path(__file__).parents[2] / "docs"
COMMANDS, GROUPS = commands(), groups()
ALL = COMMANDS | GROUPS


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a command line prints that ends with 0 and has nothing to say on standard error."""
    monkeypatch.setattr("sys.argv", ["holdover", *words])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


@pytest.mark.parametrize("words", ALL)
def test_help_is_the_same_by_both_options(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short = shown(capsys, monkeypatch, *words.split(), "-h")
    assert short == shown(capsys, monkeypatch, *words.split(), "--help")
    assert short.startswith(f"Usage: {' '.join(['holdover', *words.split()])} [OPTIONS]")
    assert max(map(len, short.splitlines())) <= 80


@pytest.mark.parametrize("words", [words for words in GROUPS if words not in COMMANDS])
def test_a_group_alone_prints_its_help(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = shown(capsys, monkeypatch, *words.split())
    assert alone == shown(capsys, monkeypatch, *words.split(), "-h")


@pytest.mark.parametrize("words", GROUPS)
def test_a_group_lists_its_commands_with_whole_sentences(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(shown(capsys, monkeypatch, *words.split(), "-h").split())
    for name, command in GROUPS[words].commands.items():
        sentence = " ".join(command.help.split("\n\n")[0].split())
        # the help may break a line within a word that has a hyphen
        assert f"{name} {sentence}".replace("- ", "-") in text.replace("- ", "-")


@pytest.mark.parametrize("words", ALL)
def test_each_command_begins_its_help_with_one_sentence(words: str) -> None:
    first = " ".join((ALL[words].help or "").split("\n\n")[0].split())
    assert _SENTENCE.fullmatch(first), first


@pytest.mark.parametrize("words", COMMANDS)
def test_each_metavar_is_a_word(words: str) -> None:
    for each in COMMANDS[words].params:
        if isinstance(each, TyperOption) and (each.is_flag or each.count or each.type_descriptor.is_choice):
            continue
        assert each.metavar is not None, each.name
        assert _WORD.fullmatch(each.metavar), each.metavar
        assert each.metavar not in _TYPES, each.name


@pytest.mark.parametrize("words", COMMANDS)
def test_each_argument_and_option_has_its_help(words: str) -> None:
    for each in COMMANDS[words].params:
        assert isinstance(each, TyperArgument | TyperOption)
        assert each.help, each.name
        assert each.help.endswith((".", "]")), each.help


def test_a_name_means_the_same_wherever_it_stands() -> None:
    """An option has one metavar, whatever command it is an option of."""
    found: dict[str, set[str | None]] = {}
    for command in COMMANDS.values():
        for each in command.params:
            if isinstance(each, TyperOption) and not each.is_flag:
                found.setdefault(each.opts[0], set()).add(each.metavar)
    different = {option for option, metavars in found.items() if len(metavars) > 1}
    # --ca: a folder for those who issue certificates, a file for those who trust them. --key: of a
    # reservation, or of a certificate. --trace: of a handover, or what qemu-pr-helper calls so.
    assert different == {"--ca", "--key", "--trace"}


def test_the_page_of_exit_statuses_has_each_command_once() -> None:
    table = (
        (DOCS / "reference" / "exit-status.md")
        .read_text()
        .partition("## Each command")[2]
        .partition("## ")[0]
    )
    named = re.findall(
        r"`([^`]+)`", "\n".join(row.split(" | ")[0] for row in table.splitlines() if row[:1] == "|")
    )
    assert sorted(named) == sorted(COMMANDS)


def test_choices_are_those_of_the_code_behind_them() -> None:
    assert set(get_args(StalePolicy)) == {each.value for each in Stale}
    assert set(get_args(TypeName)) == set(TYPES)


def test_the_default_address_is_that_of_the_agent() -> None:
    assert asking.DEFAULT_API == agent_file.DEFAULT_API
