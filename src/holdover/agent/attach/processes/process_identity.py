"""Which guest a client of the helper's socket is: reads its process's command line, as QEMU writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptionError

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DRIVER = "scsi-block"
_MIGRATE_PR = "migrate-pr"
_ON = frozenset({"on", "yes", "true", "y"})

_COMMAND_LINE_BYTES = 1 << 18
"""The most bytes of a command line to read; QEMU's are some 10 KiB."""
DEFAULT_MACHINE_TYPE = "pc"
"""The machine type of a QEMU whose command line names none."""
NAME_LENGTH = 255
"""The most characters of a guest's name and of a machine type."""


class NotIdentified(Exception):
    """A process does not say which guest it is; the message ends with what to do about it."""


@dataclass(frozen=True, slots=True)
class QemuIdentity:
    """What a QEMU's command line says of its guest; an attribute is None if it says nothing of it.

    Attributes:
        name: The value of ``-name NAME`` or ``-name guest=NAME``.
        uuid: The value of ``-uuid``, in lower case.
        machine_type: The machine type, without its properties.
        incoming: Whether QEMU was started as the destination of a migration.
        moves_itself: Whether this QEMU moves the reservations of a ``scsi-block`` itself: one of them has
            ``migrate-pr=on``, or has it from a machine type of version 11.0 or later.
    """

    name: str | None = None
    uuid: str | None = None
    machine_type: str | None = None
    incoming: bool = False
    moves_itself: bool = False


def parse_command_line(arguments: Sequence[str]) -> QemuIdentity:
    """What a command line says of the guest; if an option is there twice, the last counts, as for QEMU."""
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
    machine_type = _properties(found.get("machine", found.get("M", "")), "type").get("type")
    return QemuIdentity(
        name=_properties(found.get("name", ""), "guest").get("guest"),
        uuid=uuid.lower() if uuid else None,
        machine_type=machine_type,
        incoming="incoming" in found,
        moves_itself=_moves_itself(devices, given, machine_type),
    )


def _moves_itself(devices: Sequence[Mapping[str, str]], given: str | None, machine_type: str | None) -> bool:
    blocks = [each.get(_MIGRATE_PR, given) for each in devices if each.get("driver") == _DRIVER]
    return any(_by_machine(machine_type) if value is None else value in _ON for value in blocks)


def _by_machine(machine_type: str | None) -> bool:
    """Whether only a QEMU that has `migrate-pr` has this machine type."""
    try:
        kind = MachineType.parse(machine_type or "")
    except DeviceOptionError:
        return False
    return kind.version is not None and kind.migrate_pr


def identify_process(pid: int, proc: Path = Path("/proc")) -> QemuIdentity:
    """The guest of a running QEMU, which has a name or a UUID.

    Raises:
        NotIdentified: There is no such process, its command line cannot be read, or it has neither name nor
            UUID.
    """
    fix = 'give its guest a socket of its own: [[guest]] helper = "PATH"'
    if pid == 0:
        raise NotIdentified(
            f"the process at the other end is in a PID namespace that this agent does not see into; {fix}"
        )
    try:
        with (proc / str(pid) / "cmdline").open("rb") as file:
            raw = file.read(_COMMAND_LINE_BYTES + 1)
    except OSError as error:
        raise NotIdentified(
            f"process {pid}: its command line cannot be read ({error.strerror}); {fix}"
        ) from error
    if len(raw) > _COMMAND_LINE_BYTES:
        raise NotIdentified(f"process {pid}: its command line is longer than {_COMMAND_LINE_BYTES} bytes")
    arguments = raw.rstrip(b"\0").decode(errors="replace").split("\0")
    identity = parse_command_line(arguments)
    if identity.name is None and identity.uuid is None:
        what = arguments[0] or "without a command line"
        raise NotIdentified(
            f"process {pid} ({what[:NAME_LENGTH]}) has neither -name nor -uuid; "
            f"start QEMU with -name GUEST, or {fix}"
        )
    _check(pid, identity)
    return identity


def _check(pid: int, identity: QemuIdentity) -> None:
    """Refuse values that no QEMU has, before they get into records and messages."""
    for what, text in (("-name", identity.name), ("-machine", identity.machine_type)):
        if text is not None and len(text) > NAME_LENGTH:
            raise NotIdentified(f"process {pid}: its {what} is longer than {NAME_LENGTH} characters")
    if identity.uuid is not None and _UUID.fullmatch(identity.uuid) is None:
        raise NotIdentified(f"process {pid}: its -uuid is not a UUID")


def cgroup_of(pid: int, proc: Path = Path("/proc")) -> str:
    """The cgroup of a process, as seen from here; empty if it has none.

    It is the place in the unified tree or, if that is not used, in systemd's tree.
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    # ID:CONTROLLERS:PATH (cgroups(7))
    trees = {controllers: path for _, controllers, path in (each.split(":", 2) for each in lines)}
    unified = trees.get("", "")
    return unified if unified not in ("", "/") else trees.get("name=systemd", unified)


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
    """The properties in ``key=value,...``; the first value may lack its key; ``,,`` is a comma in a value."""
    properties: dict[str, str] = {}
    for number, word in enumerate(text.replace(",,", "\0").split(",")):
        name, equals, value = word.replace("\0", ",").partition("=")
        if equals:
            properties[name] = value
        elif number == 0 and name:
            properties[implied] = name
    return properties


def known_machine_type(text: str) -> MachineType | None:
    """The machine type that a QEMU has named; None if it is not one."""
    try:
        return MachineType.parse(text)
    except DeviceOptionError:
        return None
