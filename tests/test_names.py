"""The names in the package: one name, one meaning."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import holdover

PACKAGE = Path(holdover.__file__).parent
OLD = frozenset(
    {
        "LostAnswer",
        "MovingLun",
        "Workshop",
        "aside",
        "burdened",
        "carrying_out",
        "door",
        "few_at_once",
        "glance",
        "handing_over",
        "hear",
        "heard",
        "hears",
        "hush",
        "doubts",
        "notice",
        "moving",
        "pace",
        "prey",
        "unheard",
        "work_alone",
    }
)
"""Names for which the field has another word."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text())


def names(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name


def test_each_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for place, module in modules():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(place)
    assert len(places) > 500
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_old_names_are_gone() -> None:
    found = {place: OLD & {each.lstrip("_") for each in names(module)} for place, module in modules()}
    assert {place: left for place, left in found.items() if left} == {}
