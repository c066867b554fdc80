"""The reference of the agent's file: prose from configuration.md, tables from the structures themselves."""

from __future__ import annotations

import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any

import msgspec

from holdover.agent.reload import LIVE, LIVE_OF_GUESTS
from holdover.config.agent_file import AgentConfig

_TEMPLATE = Path(__file__).with_name("configuration.md")
_PLACE = re.compile(r"^\{keys ([a-z]+)\}$", re.MULTILINE)
_NAMES = re.compile(r"^    (?! )([a-z0-9_-]+(?:, [a-z0-9_-]+)*): (.*)$")
_WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    tuple[str, ...]: "list of texts",
}


def configuration_page() -> str:
    """The whole page."""
    return _PLACE.sub(lambda found: _table(found[1]), _TEMPLATE.read_text(encoding="utf-8"))


def sections() -> dict[str, type[msgspec.Struct]]:
    """The structure of each section of the file, by its name."""
    hints = typing.get_type_hints(AgentConfig)
    found = {name: _structure_in(hint) for name, hint in hints.items()}
    return {name: each for name, each in found.items() if each is not None}


def keys_of(section: str) -> dict[str, Any]:
    """The fields of a section by their keys in the file; "file" stands for the keys outside of sections."""
    structure = AgentConfig if section == "file" else sections()[section]
    fields = msgspec.structs.fields(structure)
    return {each.encode_name: each for each in fields if section != "file" or each.name not in sections()}


def meanings(structure: type[msgspec.Struct]) -> dict[str, str]:
    """What each key means, from the attributes in the docstring of a structure."""
    text = inspect.getdoc(structure) or ""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.partition("Attributes:\n")[2].splitlines():
        begins = _NAMES.match(line)
        if begins is not None:
            names = begins[1].split(", ")
            found |= dict.fromkeys(names, begins[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _table(section: str) -> str:
    structure = AgentConfig if section == "file" else sections()[section]
    told = meanings(structure)
    lines = ["| key | type | default | reload | meaning |", "| --- | --- | --- | --- | --- |"]
    for key, field in keys_of(section).items():
        cells = (f"`{key}`", _type(field.type), _default(field), _reload(section, field.name), told[key])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _reload(section: str, name: str) -> str:
    if section == "guest" and name in LIVE_OF_GUESTS:
        return "yes"
    key = name if section == "file" else f"api.{name}" if section == "api" else section
    return "yes" if key in LIVE else "restart"


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{each}`" for each in typing.get_args(annotation))
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        parts = [each for each in typing.get_args(annotation) if each is not type(None)]
        return " or ".join(_type(each) for each in parts)
    return _WORDS[annotation]


def _default(field: Any) -> str:
    if field.required:
        return "required"
    if field.default is None or field.default == ():
        return "none"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, int | float):
        return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
    return f"`{field.default}`"


def _structure_in(annotation: Any) -> type[msgspec.Struct] | None:
    """The structure that an annotation names: itself, in a list, or beside None."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    inner = (_structure_in(each) for each in typing.get_args(annotation))
    return next((each for each in inner if each is not None), None)
