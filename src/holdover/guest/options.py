"""The options of a device in QEMU's own syntax: `scsi-block,id=disk0,drive=...,migrate-pr=on`.

Commas separate the words. `,,` is a comma inside a word. The first word may leave out `driver=`. If two
properties have the same name, QEMU uses the last; here that is an error, because one of the two is wrong.

If the text may contain a password, an error repeats no word of it. The error gives the number of the word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_DRIVER = "scsi-block"
_PROPERTIES = ("id", "drive", "secret-file", "migrate-pr")
_ON, _OFF = ("on", "yes", "true", "y"), ("off", "no", "false", "n")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


class DeviceOptionError(ValueError):
    """An option that is refused; the message names it and says what is accepted.

    Nothing was set up from this option.
    """


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """One `--device`.

    Attributes:
        id: The device's name, or None if it has none.
        drive: Where the logical unit is, as written; it may contain a password.
        secret_file: The file that holds the password of the drive's user, or None.
        migrate_pr: The value that the option sets, or None: then the machine type decides.
    """

    id: str | None
    drive: str = field(repr=False)
    migrate_pr: bool | None = None
    secret_file: str | None = None


def parse_device(text: str) -> DeviceOptions:
    """The options of one `--device`.

    Raises:
        DeviceOptionError: A driver, property or value is not known, a property comes twice, or the drive is
            missing.
    """
    where = "--device"
    properties = parse_properties(text, where, "driver")
    driver = properties.pop("driver", None)
    if driver is None:
        raise DeviceOptionError(f"{where}: the driver is missing; the first word must be {_DRIVER}")
    if driver != _DRIVER:
        shown = _shown(driver, text, 1)
        raise DeviceOptionError(f"{where}: driver {shown} is not known; it must be {_DRIVER}")
    for number, name in enumerate(properties, 2):
        if name not in _PROPERTIES:
            shown = _shown(name, text, number)
            raise DeviceOptionError(
                f"{where} {_DRIVER}: property {shown} is not known; {_listed(_PROPERTIES)} are"
            )
    identifier = properties.get("id")
    if identifier is not None and not _ID.fullmatch(identifier):
        raise DeviceOptionError(
            f"{where} {_DRIVER}: id {identifier!r} must start with a letter and go on with letters,"
            " digits, '-', '.' or '_'"
        )
    if not properties.get("drive"):
        raise DeviceOptionError(f"{where} {_DRIVER}: property 'drive' is missing")
    migrate_pr = properties.get("migrate-pr")
    return DeviceOptions(
        id=identifier,
        drive=properties["drive"],
        migrate_pr=None if migrate_pr is None else _on_or_off(where, migrate_pr, text),
        secret_file=properties.get("secret-file"),
    )


def parse_properties(text: str, where: str, implied: str) -> dict[str, str]:
    """The properties of an option by name, in the order of the text.

    Args:
        text: The option's value.
        where: The option's name, for the errors.
        implied: The property's name that the first word may leave out.

    Raises:
        DeviceOptionError: A word has no name or no value, or a name comes twice.
    """
    properties: dict[str, str] = {}
    for index, word in enumerate(_split(text)):
        name, equals, value = word.partition("=")
        if not equals and index == 0 and word:
            name, value = implied, word
        elif not name:
            raise DeviceOptionError(f"{where}: property without a name in {_shown(text, text, index + 1)}")
        elif not equals:
            shown = _shown(name, text, index + 1)
            raise DeviceOptionError(
                f"{where}: property {shown} has no value; write NAME=..., and ,, for a comma"
            )
        if name in properties:
            raise DeviceOptionError(f"{where}: property {_shown(name, text, index + 1)} is given twice")
        properties[name] = value
    return properties


def _shown(word: str, text: str, number: int) -> str:
    """A word for a message; only its number if the word may be a part of a password."""
    return f"(word {number})" if _may_have_a_password(text) else repr(word)


def _may_have_a_password(text: str) -> bool:
    return "@" in text or "%" in text


def _split(text: str) -> list[str]:
    words = [""]
    # Match pairs of commas from the left, as QEMU does: ",,," is a comma and then a separator.
    for piece in re.findall(r",,|,|[^,]+", text):
        if piece == ",":
            words.append("")
        else:
            words[-1] += "," if piece == ",," else piece
    return words


def _on_or_off(where: str, value: str, text: str) -> bool:
    if value in _ON:
        return True
    if value in _OFF:
        return False
    shown = "" if _may_have_a_password(text) else f"={value!r}"
    raise DeviceOptionError(f"{where} {_DRIVER}: migrate-pr{shown} must be on or off")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names)
