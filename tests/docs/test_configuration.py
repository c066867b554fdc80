"""The configuration that the pages show is one that an agent takes, and each key has its row."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pages.configuration_page import configuration_page, keys_of, meanings, sections

from holdover.config.agent_file import AgentConfig, check_config

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in sorted(DOCS.rglob("*.md"))
    for number, block in enumerate(
        re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("section", ["file", *sections()])
def test_every_key_says_what_it_means(section: str) -> None:
    structure = AgentConfig if section == "file" else sections()[section]
    told = meanings(structure)
    assert set(told) == set(keys_of(section))
    for text in told.values():
        assert text[0].isupper() or text[0] == "`", text
        assert text[-1] in ".`", text


def test_the_page_has_a_table_for_each_section_and_no_key_is_left_out() -> None:
    page = configuration_page()
    assert "{keys" not in page
    shown = re.findall(r"^\| `([a-z0-9_-]+)` \|[^|]+\|[^|]+\| (?:yes|restart) \|", page, re.MULTILINE)
    assert sorted(shown) == sorted(key for section in ("file", *sections()) for key in keys_of(section))
    assert {"file", *sections()} - {"file"} | set(keys_of("file")) == set(
        AgentConfig.__struct_encode_fields__
    )


def test_a_reload_takes_what_the_page_says() -> None:
    page = configuration_page()
    row = r"^\| `{}` \|[^|]+\|[^|]+\| {} \|"
    assert re.search(row.format("readers", "yes"), page, re.MULTILINE)
    assert re.search(row.format("certificate", "restart"), page, re.MULTILINE)
    assert re.search(row.format("state-dir", "restart"), page, re.MULTILINE)
    assert re.search(row.format("early-commit", "yes"), page, re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_are_taken(text: str) -> None:
    document: dict[str, Any] = tomllib.loads(text)
    whole = {"name": "host-a", "initiator": "iqn.2026-11.org.example:host-a", **document}
    config = msgspec.convert(whole, AgentConfig)
    check_config(config, "the example")
