"""The configuration that the pages show is one that an agent takes, and each key has its row."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdover.config.agent_file import (
    AgentConfig,
    ApiConfig,
    ExportsConfig,
    GuestConfig,
    HelperConfig,
    HistoryConfig,
    JournalConfig,
    LibvirtConfig,
    Limits,
    LogConfig,
    MetricsConfig,
    MigrationConfig,
    PeerConfig,
    QmpConfig,
    check_config,
)
from holdover.config.rules import Rule

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "configuration.md").read_text()
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "[api]": ApiConfig,
    "[[peer]]": PeerConfig,
    "[[guest]]": GuestConfig,
    "[exports]": ExportsConfig,
    "[helper]": HelperConfig,
    "[[rule]]": Rule,
    "[qmp]": QmpConfig,
    "[journal]": JournalConfig,
    "[limits]": Limits,
    "[migration]": MigrationConfig,
    "[libvirt]": LibvirtConfig,
    "[metrics]": MetricsConfig,
    "[log]": LogConfig,
    "[history]": HistoryConfig,
}
EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in sorted(DOCS.rglob("*.md"))
    for number, block in enumerate(
        re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


def part(heading: str) -> str:
    """What stands below a heading of the page, up to the next one of its level."""
    found = re.search(rf"^## {re.escape(heading)}[^\n]*$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1].partition("\n### ")[0]


def rows(heading: str) -> dict[str, str]:
    """The keys below a heading with their defaults; a row may have several keys, and as many defaults."""
    found: dict[str, str] = {}
    for keys, default in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", part(heading), re.MULTILINE):
        names = re.findall(r"`([^`]+)`", keys)
        defaults = default.split(", ") if len(names) == len(default.split(", ")) else [default] * len(names)
        found.update(zip(names, defaults, strict=True))
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_a_row(section: str) -> None:
    assert set(rows(f"`{section}`")) == set(SECTIONS[section].__struct_encode_fields__)


def test_every_section_and_every_key_outside_has_a_place() -> None:
    own = set(rows("The file itself"))
    assert own | {each.strip("[]") for each in SECTIONS} == set(AgentConfig.__struct_encode_fields__)


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults_are_those_of_the_agent(section: str) -> None:
    shown = rows(f"`{section}`")
    for field in msgspec.structs.fields(SECTIONS[section]):
        told = shown[field.encode_name]
        if isinstance(field.default, bool):
            assert told in {f"`{str(field.default).lower()}`"}, field.encode_name
        elif isinstance(field.default, int | float):
            assert float(told) == field.default, field.encode_name
        elif isinstance(field.default, str):
            assert told == f"`{field.default}`", field.encode_name
        else:
            assert (told == "required") == field.required, field.encode_name


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_are_taken(text: str) -> None:
    document: dict[str, Any] = tomllib.loads(text)
    whole = {"name": "host-a", "initiator": "iqn.2026-11.org.example:host-a", **document}
    config = msgspec.convert(whole, AgentConfig)
    check_config(config, "the example")
