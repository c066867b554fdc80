"""The options of an embedded LUN on the command line: file=PATH,size=64M,serial=TEXT,readonly=on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from holdover.lun.errors import LunOptionError
from holdover.lun.store import SERIAL

_BLOCK = 512
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)", re.IGNORECASE)
_KEYS = ("file", "size", "serial", "readonly")
_SWITCH = {"on": True, "off": False}
_LARGEST = 1 << 62  # no file offset is larger


@dataclass(frozen=True, slots=True)
class LunOptions:
    """The options of one embedded LUN.

    Attributes:
        file: The file that is the medium.
        size: The size in bytes, a multiple of 512; None takes the size of the file, which must exist then.
        serial: The unit serial number; None keeps one beside the file (see `holdover.lun.store`).
        read_only: Whether the LUN is write-protected; the file is then opened only for reading.
    """

    file: Path
    size: int | None = None
    serial: str | None = None
    read_only: bool = False


def parse_lun_options(text: str) -> LunOptions:
    """The options in the text of `--lun`. A comma in a value is written twice.

    Raises:
        LunOptionError: A key is unknown, repeated or missing, or a value is wrong. The message names it.
    """
    values: dict[str, str] = {}
    for part in _split(text):
        key, equals, value = part.partition("=")
        if key not in _KEYS:
            raise LunOptionError(f"{text!r}: unknown option {key!r}; the options are {', '.join(_KEYS)}")
        if not equals or not value:
            raise LunOptionError(f"{text!r}: {key} needs a value: {key}=...")
        if key in values:
            raise LunOptionError(f"{text!r}: {key} is given twice; give it once")
        values[key] = value
    if "file" not in values:
        raise LunOptionError(f"{text!r}: file=PATH is missing; add it")
    if "\0" in values["file"]:
        raise LunOptionError(f"{text!r}: file contains a NUL")
    size = _parse_size(text, values["size"]) if "size" in values else None
    serial = values.get("serial")
    if serial is not None and not SERIAL.fullmatch(serial):
        raise LunOptionError(f"{text!r}: serial must be 1 to 64 printable ASCII characters without spaces")
    switch = values.get("readonly", "off")
    if switch not in _SWITCH:
        raise LunOptionError(f"{text!r}: readonly={switch} is not on or off")
    return LunOptions(Path(values["file"]), size, serial, _SWITCH[switch])


def _split(text: str) -> list[str]:
    """The parts between single commas; a double comma becomes a single one."""
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
        raise LunOptionError(f"{text!r}: size={value} is not a number, or a number followed by K, M, G or T")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if size == 0 or size % _BLOCK:
        raise LunOptionError(f"{text!r}: size={value} is {size} bytes, not a multiple of {_BLOCK} above 0")
    if size > _LARGEST:
        raise LunOptionError(f"{text!r}: size={value} is more than the largest file can have")
    return size
