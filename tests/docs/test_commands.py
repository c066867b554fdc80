"""Each command of `holdover` in a page, in a block or in a sentence, is one, with options that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.core import TyperOption

from tests.cli.tree import commands, groups

ROOT = Path(__file__).parents[2]
COMMANDS, GROUPS = commands(), groups()
_BLOCK = re.compile(r"^ *```sh[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_USE = re.compile(r"(?:^|&&|\|\||\buntil|<\(|[;(])\s*(?:[A-Z_]+=\S+ )*holdover ([^#\n&|;)]*)", re.MULTILINE)

_IN_A_SENTENCE = re.compile(r"(?<!`)`holdover ([^`]+)`(?!`)")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\$\([^)]*|[0-9]?>\s*\S+")
"""A word in quotes, what another command prints, and where the output goes."""


def uses() -> list[tuple[str, str]]:
    """Every use of `holdover` in a page: the page, and what follows the name."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text()
        for block in _BLOCK.findall(text):
            found += [(page.name, each.strip()) for each in _USE.findall(block.replace("\\\n", " "))]
        found += [(page.name, " ".join(each.split())) for each in _IN_A_SENTENCE.findall(text)]
    return found


def problem(text: str) -> str | None:
    """What is wrong with a use of `holdover`; None if nothing is."""
    words = [
        word for word in re.sub(r"'[^']*'|\"[^\"]*\"|\$\([^)]*|[0-9]?>\s*\S+", "X", text).split() if word
    ]
    name: list[str] = []
    while words and " ".join([*name, words[0]]) in COMMANDS | GROUPS:
        name.append(words.pop(0))
    command = (COMMANDS | GROUPS).get(" ".join(name))
    if not name or command is None:
        return None if not words or words[0] in {"--version", "-h", "--help"} else f"no command {words[0]}"
    options = {
        each for option in command.params if isinstance(option, TyperOption)
        for each in (*option.opts, *option.secondary_opts)
    }  # fmt: skip
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
    return f"{' '.join(name)} has no {unknown[0]}" if unknown and "--help" not in unknown else None


@pytest.mark.parametrize(("page", "text"), sorted(set(uses())))
def test_the_command_is_one(page: str, text: str) -> None:
    assert problem(text.strip("[]")) is None


def test_there_are_many_uses_and_wrong_ones_are_seen() -> None:
    assert len(uses()) > 300
    assert problem("handover prepare db1 --to host-b") is None
    assert problem("migrat db1") == "no command migrat"
    assert problem("migrate db1 --too host-b") == "migrate has no --too"
