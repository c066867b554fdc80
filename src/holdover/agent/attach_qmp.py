"""What a QEMU says of itself by its monitor: its guest, and whether it moves reservations itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from holdover.qemu.monitor import Monitor, QemuError

__all__ = ["MonitorIdentity", "ask_monitor"]

_CONTAINERS = ("/machine/peripheral", "/machine/peripheral-anon")
_SCSI_BLOCK = "child<scsi-block>"
_PROPERTY = "migrate-pr"
_SUFFIX = "-machine"
_NO_UUID = "00000000-0000-0000-0000-000000000000"


class _Property(msgspec.Struct, frozen=True):
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class MonitorIdentity:
    """What a monitor says; None where QEMU was given none.

    Attributes:
        name: The guest's name.
        uuid: Its UUID, in lower case.
        machine: Its machine type with its version: QEMU resolves "pc" and "q35".
        moves_itself: Whether a ``scsi-block`` has ``migrate-pr`` switched on (QEMU from 11.0).
    """

    name: str | None
    uuid: str | None
    machine: str
    moves_itself: bool


async def ask_monitor(socket: Path, *, timeout: float) -> MonitorIdentity:
    """Ask a QEMU who it is, and hang up: a monitor serves one client at a time.

    Raises:
        QemuError: It cannot be asked, or another client holds its monitor (for ``timeout`` seconds).
    """
    async with await Monitor.connect(socket, "QEMU", timeout=timeout) as monitor:
        uuid = await monitor.query_uuid()
        machine = str(await monitor.execute("qom-get", {"path": "/machine", "property": "type"}))
        return MonitorIdentity(
            name=await monitor.query_name(),
            uuid=None if uuid == _NO_UUID else uuid.lower(),
            machine=machine.removesuffix(_SUFFIX),
            moves_itself=await _moves_itself(monitor),
        )


async def _moves_itself(monitor: Monitor) -> bool:
    for container in _CONTAINERS:
        for child in await _list(monitor, container):
            if child.type != _SCSI_BLOCK:
                continue
            device = f"{container}/{child.name}"
            if any(each.name == _PROPERTY for each in await _list(monitor, device)) and (
                await monitor.execute("qom-get", {"path": device, "property": _PROPERTY})
            ):
                return True
    return False


async def _list(monitor: Monitor, path: str) -> list[_Property]:
    answer = await monitor.execute("qom-list", {"path": path})
    try:
        return msgspec.convert(answer, list[_Property])
    except msgspec.ValidationError as error:
        raise QemuError(f"{monitor.name}: an answer to qom-list that is none: {error}") from error
