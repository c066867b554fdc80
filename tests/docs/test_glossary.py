"""The glossary has each term that the command line and README use, once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from typer.core import TyperOption

from tests.cli.tree import commands, groups

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
WORD = re.compile(r"[A-Za-z_]+")
CAPITALS = re.compile(r"\b[A-Z][A-Z_]+[A-Z]\b")
ORDINARY = frozenset(
    WORD.findall(
        """
        abort address after alone and at changelog check completion config count credentials ctl
        explain install topic
        daemon days demo dir directory existing fail from full group html ignore init issue json
        listen max mebibytes memory migrate name new number open out password pattern pidfile
        quiet read readme replace report runs seconds seed serial shell show socket state status
        tcp time timeout to toml uid uri user value verbose version vm waits
        attach auto bandwidth cancel compression converge detach dry milliseconds only run set tls watch
        root setup start undo without
        allow changes interval once top format level log doctor
        history limit or reason since
        alive forget list why yes
        """
    )
)
"""Words of everyday English and of every Linux administrator; they mean here what they mean everywhere."""
SPELLED = {
    "ca": "authority",
    "keys": "key",
    "pr": "persistent reservation",
    "reservation": "persistent reservation",
    "events": "event",
    "declare": "declare dead",
    "dead": "declare dead",
    "rollback": "roll back",
    "sessions": "session",
    "kvm": "KVM",
    "mutual": "CHAP",
    "capabilities": "PERSISTENT RESERVE IN",
    "control": "control socket",
    "domain": "guest",
    "migrations": "migration",
    "reservations": "persistent reservation",
    "md": "CHAP",
}
"""Words of the command line for what the glossary has under another word."""
NOT_OURS = frozenset({"CAP_SYS_RAWIO", "GPFS", "PEM", "RAC", "SIGHUP", "SIGINT", "SIGTERM"})
"""Names of Linux, of programs and of formats, which are not explained here."""


def terms() -> list[str]:
    """The first column of every table."""
    rows = re.findall(r"^\| ([^|]+) \|", GLOSSARY, re.MULTILINE)
    return [row.strip("`* ") for row in rows if row.strip() not in {"word", "---"}]


KNOWN = {word.lower() for term in terms() for word in WORD.findall(term)}


def is_explained(word: str) -> bool:
    """Whether the glossary has a word, or everybody knows it."""
    lowered = word.lower()
    if lowered in SPELLED:
        return SPELLED[lowered] in terms()
    return lowered in KNOWN | ORDINARY or word in NOT_OURS


def nouns() -> set[str]:
    """The words in the names of commands, options and metavars."""
    found: set[str] = set()
    for path, command in (commands() | groups()).items():
        found.update(WORD.findall(path))
        for each in command.params:
            options = [*each.opts, *each.secondary_opts] if isinstance(each, TyperOption) else []
            for name in (*options, each.metavar or ""):
                found.update(WORD.findall(name))
    return {word for word in found if len(word) > 1}


def capitals() -> set[str]:
    """The words in capitals in README and in every help, but variables of the shell."""
    texts = [re.sub(r"```.*?```|\$\w+", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)]
    for command in (commands() | groups()).values():
        texts += [command.help or "", *(each.help or "" for each in command.params)]
    return {word for text in texts for word in CAPITALS.findall(text)}


@pytest.mark.parametrize("word", sorted(nouns()))
def test_each_word_of_the_command_line_is_explained(word: str) -> None:
    assert is_explained(word), f"add {word} to docs/glossary.md, or to the lists of this test"


@pytest.mark.parametrize("word", sorted(capitals()))
def test_each_word_in_capitals_is_explained(word: str) -> None:
    assert is_explained(word), f"add {word} to docs/glossary.md, or to the lists of this test"


def test_each_term_is_there_once() -> None:
    assert [term for term, count in Counter(map(str.lower, terms())).items() if count > 1] == []


def test_terms_stand_in_order() -> None:
    for table in GLOSSARY.split("\n## ")[1:]:
        rows = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[2:]
        plain = [re.sub(r"[`*_]", "", row).strip().lower() for row in rows]
        assert plain == sorted(plain)


def test_no_word_is_listed_that_nobody_uses() -> None:
    used = {word.lower() for word in nouns() | capitals()}
    assert used >= ORDINARY
    assert used >= SPELLED.keys()
    assert used >= {word.lower() for word in NOT_OURS}
