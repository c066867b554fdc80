"""Which guest a client of the helper's socket is: its process's command line, as QEMU writes it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

__all__ = ["QemuIdentity", "identify_process", "parse_command_line"]


@dataclass(frozen=True, slots=True)
class QemuIdentity:
    """What a QEMU's command line says of its guest; None where it does not.

    Attributes:
        name: ``-name NAME`` or ``-name guest=NAME``.
        uuid: ``-uuid``.
        machine: The machine type, without its properties.
    """

    name: str | None
    uuid: str | None
    machine: str | None


def parse_command_line(arguments: list[str]) -> QemuIdentity:
    """Read what is said of the guest; of an option that is there twice the last counts, as for QEMU."""
    found: dict[str, str] = {}
    for option, value in pairwise(arguments):
        if option.startswith("-"):
            found[option.lstrip("-")] = value
    return QemuIdentity(
        name=_first(found.get("name"), "guest"),
        uuid=found.get("uuid"),
        machine=_first(found.get("machine", found.get("M")), "type"),
    )


def identify_process(pid: int, proc: Path = Path("/proc")) -> QemuIdentity:
    """The guest of a running QEMU.

    Raises:
        OSError: There is no such process, or it may not be looked at.
    """
    raw = (proc / str(pid) / "cmdline").read_bytes()
    return parse_command_line(raw.rstrip(b"\0").decode(errors="replace").split("\0"))


def _first(value: str | None, key: str) -> str | None:
    """The value of ``key`` in ``key=value,...``, where the first property may stand without its key."""
    if value is None:
        return None
    properties = value.replace(",,", "\0").split(",")
    for number, text in enumerate(properties):
        name, equals, rest = text.partition("=")
        if equals and name == key:
            return rest.replace("\0", ",")
        if number == 0 and not equals:
            return name.replace("\0", ",")
    return None
