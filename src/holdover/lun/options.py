"""What a user says of an embedded LUN: file=PATH,size=64M,serial=TEXT,readonly=on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from holdover.lun.errors import OptionError
from holdover.lun.store import SERIAL

__all__ = ["LunOptions", "parse_lun_options"]

_BLOCK = 512
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)", re.IGNORECASE)
_KEYS = ("file", "size", "serial", "readonly")
_SWITCH = {"on": True, "off": False}
_LARGEST = 1 << 62  # beyond it no file offset goes


@dataclass(frozen=True, slots=True)
class LunOptions:
    """One embedded LUN.

    Attributes:
        file: Its medium.
        size: Bytes, a multiple of 512; None takes the size of the file, which must be there then.
        serial: Its unit serial number; None keeps one beside the file (see `holdover.lun.store`).
        read_only: Whether it is write-protected; the file is then opened for reading alone.
    """

    file: Path
    size: int | None = None
    serial: str | None = None
    read_only: bool = False


def parse_lun_options(text: str) -> LunOptions:
    """Read the text of `--lun`. A comma in a value is written twice.

    Raises:
        OptionError: An unknown, repeated or missing key, or a value that is not what it should be; named.
    """
    values: dict[str, str] = {}
    for part in _split(text):
        key, equals, value = part.partition("=")
        if key not in _KEYS:
            raise OptionError(f"{text!r}: unknown option {key!r}, there are {', '.join(_KEYS)}")
        if not equals or not value:
            raise OptionError(f"{text!r}: {key} needs a value, {key}=...")
        if key in values:
            raise OptionError(f"{text!r}: {key} is given twice")
        values[key] = value
    if "file" not in values:
        raise OptionError(f"{text!r}: file=PATH is missing")
    if "\0" in values["file"]:
        raise OptionError(f"{text!r}: file holds a NUL")
    size = _parse_size(text, values["size"]) if "size" in values else None
    serial = values.get("serial")
    if serial is not None and not SERIAL.fullmatch(serial):
        raise OptionError(f"{text!r}: serial must be 1 to 64 printable ASCII characters without spaces")
    switch = values.get("readonly", "off")
    if switch not in _SWITCH:
        raise OptionError(f"{text!r}: readonly={switch} is neither on nor off")
    return LunOptions(Path(values["file"]), size, serial, _SWITCH[switch])


def _split(text: str) -> list[str]:
    """The parts between single commas, with double commas made single."""
    parts, part = [], ""
    at = 0
    while at < len(text):
        if text[at] != ",":
            part += text[at]
        elif text[at + 1 : at + 2] == ",":
            part += ","
            at += 1
        else:
            parts.append(part)
            part = ""
        at += 1
    return [*parts, part]


def _parse_size(text: str, value: str) -> int:
    match = _SIZE.fullmatch(value)
    if match is None:
        raise OptionError(f"{text!r}: size={value} is not a number with K, M, G, T or nothing after it")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if size == 0 or size % _BLOCK:
        raise OptionError(f"{text!r}: size={value} is {size} bytes, not a multiple of {_BLOCK} above 0")
    if size > _LARGEST:
        raise OptionError(f"{text!r}: size={value} is more than a file can have")
    return size
