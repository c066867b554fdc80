"""Which guest a client of the helper's socket is: its process's command line, as QEMU writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from holdover.guest.machine import MachineType
from holdover.guest.options import OptionError

__all__ = [
    "NotIdentified",
    "QemuIdentity",
    "identify_process",
    "open_devices",
    "parse_command_line",
]

_DRIVER = "scsi-block"
_MIGRATE_PR = "migrate-pr"
_ON = frozenset({"on", "yes", "true", "y"})


class NotIdentified(Exception):
    """A process does not say which guest it is; the message ends in what to do about it."""


@dataclass(frozen=True, slots=True)
class QemuIdentity:
    """What a QEMU's command line says of its guest; None where it does not.

    Attributes:
        name: ``-name NAME`` or ``-name guest=NAME``.
        uuid: ``-uuid``, in lower case.
        machine: The machine type, without its properties.
        incoming: Whether it was started to be migrated to.
        moves_itself: Whether this QEMU moves the reservations of a ``scsi-block`` itself: where one has
            ``migrate-pr=on``, or has it from a machine type of version 11.0 or later.
    """

    name: str | None = None
    uuid: str | None = None
    machine: str | None = None
    incoming: bool = False
    moves_itself: bool = False


def parse_command_line(arguments: Sequence[str]) -> QemuIdentity:
    """Read what is said of the guest; of an option that is there twice the last counts, as for QEMU."""
    found: dict[str, str] = {}
    devices: list[Mapping[str, str]] = []
    given = None
    for option, value in pairwise(arguments):
        if not option.startswith("-"):
            continue
        name = option.removeprefix("-").removeprefix("-")
        found[name] = value
        if name == "device":
            devices.append(_device(value))
        elif name == "global" and value.startswith(f"{_DRIVER}.{_MIGRATE_PR}="):
            given = value.rpartition("=")[2]
    uuid = found.get("uuid")
    machine = _properties(found.get("machine", found.get("M", "")), "type").get("type")
    return QemuIdentity(
        name=_properties(found.get("name", ""), "guest").get("guest"),
        uuid=uuid.lower() if uuid else None,
        machine=machine,
        incoming="incoming" in found,
        moves_itself=_moves_itself(devices, given, machine),
    )


def _moves_itself(devices: Sequence[Mapping[str, str]], given: str | None, machine: str | None) -> bool:
    blocks = [each.get(_MIGRATE_PR, given) for each in devices if each.get("driver") == _DRIVER]
    return any(_by_machine(machine) if value is None else value in _ON for value in blocks)


def _by_machine(machine: str | None) -> bool:
    """Whether a machine type is one that only a QEMU with `migrate-pr` has."""
    try:
        kind = MachineType.parse(machine or "")
    except OptionError:
        return False
    return kind.version is not None and kind.migrate_pr


def identify_process(pid: int, proc: Path = Path("/proc")) -> QemuIdentity:
    """The guest of a running QEMU, which has a name or a UUID.

    Raises:
        NotIdentified: There is no such process, it may not be looked at, or it has neither.
    """
    fix = 'give its guest a socket of its own: [[guest]] helper = "PATH"'
    if pid == 0:
        raise NotIdentified(
            f"the process at the other end is in a PID namespace that this agent does not see into; {fix}"
        )
    try:
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError as error:
        raise NotIdentified(
            f"process {pid}: its command line cannot be read ({error.strerror}); {fix}"
        ) from error
    arguments = raw.rstrip(b"\0").decode(errors="replace").split("\0")
    identity = parse_command_line(arguments)
    if identity.name is None and identity.uuid is None:
        what = arguments[0] or "without a command line"
        raise NotIdentified(
            f"process {pid} ({what}) has neither -name nor -uuid; start QEMU with -name GUEST, or {fix}"
        )
    return identity


def open_devices(pid: int, proc: Path = Path("/proc")) -> frozenset[tuple[int, int]]:
    """The files that a process has open, by type and device number (st_mode's type, st_rdev)."""
    return frozenset(_open_devices(proc / str(pid) / "fd"))


def _open_devices(folder: Path) -> Iterator[tuple[int, int]]:
    try:
        descriptors = list(folder.iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            found = descriptor.stat()
        except OSError:
            continue  # closed meanwhile
        if found.st_rdev:
            yield found.st_mode & 0o170000, found.st_rdev


def _device(text: str) -> Mapping[str, str]:
    """The properties of ``-device``, which libvirt writes as JSON."""
    if not text.startswith("{"):
        return _properties(text, "driver")
    try:
        found = msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError:
        return {}
    return {
        name: "on" if value is True else "off" if value is False else str(value)
        for name, value in found.items()
    }


def _properties(text: str, implied: str) -> dict[str, str]:
    """``key=value,...``, where the first value may stand without its key, and ``,,`` is a comma in one."""
    properties: dict[str, str] = {}
    for number, word in enumerate(text.replace(",,", "\0").split(",")):
        name, equals, value = word.replace("\0", ",").partition("=")
        if equals:
            properties[name] = value
        elif number == 0 and name:
            properties[implied] = name
    return properties
