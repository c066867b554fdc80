"""What is wrong with an agent's file, in the words of the file: its sections and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

import msgspec
from msgspec import inspect

_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<number>\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_TYPE = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<given>[^`]*)`")
_CHOICE = re.compile(r"Invalid enum value (?P<given>.*)")
_KINDS = {
    "str": 'text in quotes, "..."',
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list, [...]",
    "object": "a section",
    "null": "nothing",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in the file.

    Attributes:
        section: As the file writes it, "[limits]" or "[[guest]] number 2"; empty outside of all sections.
        key: The key in the section; empty for the section itself.
        kind: The type of what belongs there; None if that is not known.
    """

    section: str
    key: str
    kind: inspect.Type | None

    def __str__(self) -> str:
        return ": ".join(part for part in (self.section, self.key) if part)


def explain(error: str, kind: type[msgspec.Struct]) -> str:
    """What is wrong, from the error that msgspec gives when it decodes a ``kind``."""
    text, _, path = error.partition(" - at `$")
    place = _place(path.removesuffix("`"), kind)
    problem = _problem(text, place)
    # An error of a section's own check already names the section.
    named = not str(place) or problem.startswith(f"{place.section.strip('[]')}.")
    return problem if named else f"{place}: {problem}"


def _problem(text: str, place: _Place) -> str:
    if unknown := _UNKNOWN.fullmatch(text):
        return _unknown(unknown[1], place)
    if missing := _MISSING.fullmatch(text):
        return f"the key {missing[1]} is missing"
    if wrong := _TYPE.fullmatch(text):
        return _wrong_type(wrong["wanted"], wrong["given"], place)
    if choice := _CHOICE.fullmatch(text):
        return f"{choice['given']} is not one of {', '.join(_choices(place.kind))}"
    return text


def _unknown(key: str, place: _Place) -> str:
    struct = _struct(place.kind)
    keys = [] if struct is None else [field.encode_name for field in struct.fields]
    near = get_close_matches(key, keys, 1, 0.6)
    meant = f"; did you mean {near[0]}?" if near else ""
    what = "key" if place.section else "key or section"
    return f"there is no {what} {key}{meant}; there are {', '.join(keys)}"


def _wrong_type(wanted: str, given: str, place: _Place) -> str:
    if not place.key and given in ("array", "object"):
        name = place.section.strip("[]")
        return f"write [[{name}]], once for each" if wanted == "array" else f"write [{name}], and only once"
    kinds = (_KINDS.get(each, each) for each in wanted.split(" | "))
    return f"this must be {' or '.join(kinds)}, not {_KINDS.get(given, given)}"


def _place(path: str, kind: type[msgspec.Struct]) -> _Place:
    current: inspect.Type | None = inspect.type_info(kind)
    section, key = "", ""
    for step in _STEP.finditer(path):
        if step["key"] is not None:
            current = _field(current, step["key"])
            key = step["key"]
            if not section and _struct(current) is not None:
                section, key = f"[{key}]", ""
        elif not key:
            section = f"[{section}] number {int(step['number']) + 1}"
            current = _struct(current)
        else:
            key = f"{key} number {int(step['number']) + 1}"
    return _Place(section, key, current)


def _field(section: inspect.Type | None, name: str) -> inspect.Type | None:
    struct = None if section is None else _struct(section)
    fields = () if struct is None else struct.fields
    return next((field.type for field in fields if field.encode_name == name), None)


def _struct(kind: inspect.Type | None) -> inspect.StructType | None:
    """The structure of a section; the section may be optional, or a list of sections."""
    match kind:
        case inspect.StructType():
            return kind
        case inspect.UnionType(types=types):
            return next((found for each in types if (found := _struct(each)) is not None), None)
        case inspect.CollectionType(item_type=item):
            return _struct(item)
        case _:
            return None


def _choices(kind: inspect.Type | None) -> Iterator[str]:
    match kind:
        case inspect.LiteralType(values=values):
            yield from map(repr, values)
        case inspect.UnionType(types=types):
            for each in types:
                yield from _choices(each)
        case _:
            return
