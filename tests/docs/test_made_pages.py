"""The pages that are made from the code are those that the code makes now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pages.__main__ import MADE
from pages.command_tree import commands

from holdover.runbook import TOPICS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "make"), MADE.items())
def test_the_page_is_made_from_this_code(name: str, make: Callable[[], str]) -> None:
    assert (ROOT / name).read_text() == make(), "make reference"


def test_every_command_has_its_part() -> None:
    page = MADE["docs/reference/commands.md"]()
    assert [each.name for each in commands() if each.words and f"\n## {each.name}\n" not in page] == []


def test_every_topic_has_its_part() -> None:
    page = MADE["docs/operate/runbook.md"]()
    assert [topic.name for topic in TOPICS if f"\n## {topic.name}\n" not in page] == []
