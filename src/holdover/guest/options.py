"""The options of a device in QEMU's own syntax: `scsi-block,id=disk0,drive=...,migrate-pr=on`.

Words stand between commas, `,,` is a comma inside a word, and the first word may leave out `driver=`.
QEMU lets the last of two equal properties win; here a doubled one is refused, as one of them is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DeviceOptions", "OptionError", "parse_device", "parse_properties"]

_DRIVER = "scsi-block"
_PROPERTIES = ("id", "drive", "migrate-pr")
_ON, _OFF = ("on", "yes", "true", "y"), ("off", "no", "false", "n")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


class OptionError(ValueError):
    """An option that cannot be taken; the message names it and says what is accepted. Nothing was
    set up from it."""


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """One `--device`.

    Attributes:
        id: The device's name, or None where it has none.
        drive: Where the logical unit is, as written.
        migrate_pr: The explicit value, or None: then the machine type decides.
    """

    id: str | None
    drive: str
    migrate_pr: bool | None = None


def parse_device(text: str) -> DeviceOptions:
    """The options of one `--device`.

    Raises:
        OptionError: A driver, property or value that is not known, one that is doubled, or no drive.
    """
    where = "--device"
    properties = parse_properties(text, where, "driver")
    driver = properties.pop("driver", None)
    if driver is None:
        raise OptionError(f"{where}: the driver is missing; the first word must be {_DRIVER}")
    if driver != _DRIVER:
        raise OptionError(f"{where}: driver {driver!r} is not known; it must be {_DRIVER}")
    for name in properties:
        if name not in _PROPERTIES:
            raise OptionError(
                f"{where} {_DRIVER}: property {name!r} is not known; {_listed(_PROPERTIES)} are"
            )
    identifier = properties.get("id")
    if identifier is not None and not _ID.fullmatch(identifier):
        raise OptionError(
            f"{where} {_DRIVER}: id {identifier!r} must start with a letter and go on with letters,"
            " digits, '-', '.' or '_'"
        )
    if not properties.get("drive"):
        raise OptionError(f"{where} {_DRIVER}: property 'drive' is missing")
    migrate_pr = properties.get("migrate-pr")
    return DeviceOptions(
        id=identifier,
        drive=properties["drive"],
        migrate_pr=None if migrate_pr is None else _on_or_off(f"{where} {_DRIVER}", "migrate-pr", migrate_pr),
    )


def parse_properties(text: str, where: str, implied: str) -> dict[str, str]:
    """The properties of an option by name, in their order.

    Args:
        text: The option's value.
        where: The option's name, for the errors.
        implied: The name of the first word if that has none of its own.

    Raises:
        OptionError: A word without a name or a value, or a name that comes twice.
    """
    properties: dict[str, str] = {}
    for index, word in enumerate(_split(text)):
        name, equals, value = word.partition("=")
        if not equals and index == 0 and word:
            name, value = implied, word
        elif not name:
            raise OptionError(f"{where}: property without a name in {text!r}")
        elif not equals:
            raise OptionError(f"{where}: property {name!r} has no value; write {name}=...")
        if name in properties:
            raise OptionError(f"{where}: property {name!r} is given twice")
        properties[name] = value
    return properties


def _split(text: str) -> list[str]:
    words = [""]
    # Pairs of commas are matched from the left, as QEMU does: ",,," is a comma and then a separator.
    for piece in re.findall(r",,|,|[^,]+", text):
        if piece == ",":
            words.append("")
        else:
            words[-1] += "," if piece == ",," else piece
    return words


def _on_or_off(where: str, name: str, value: str) -> bool:
    if value in _ON:
        return True
    if value in _OFF:
        return False
    raise OptionError(f"{where}: {name}={value!r} must be on or off")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names)
