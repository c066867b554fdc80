"""What a QEMU says of itself through its monitor and its command line.

That is which guest it is, and whether it moves reservations itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import structlog

from holdover.agent.attach.attached_guest import Refused
from holdover.agent.attach.processes.process_identity import NotIdentified, QemuIdentity, identify_process
from holdover.config.agent_file import AgentConfig, monitor_of
from holdover.helper.connection import Peer
from holdover.qemu.monitor import QemuError, QemuMonitor

log = structlog.get_logger()

_MONITOR_SECONDS = 10.0
"""The seconds to wait for a monitor: QEMU connects to the helper before its monitor can answer."""

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
    """What a monitor says; an attribute is None if QEMU was given no value.

    Attributes:
        name: The guest's name.
        uuid: The guest's UUID, in lower case.
        machine_type: The machine type with its version: QEMU resolves "pc" and "q35".
        moves_itself: Whether a ``scsi-block`` has ``migrate-pr`` switched on (QEMU from 11.0).
    """

    name: str | None
    uuid: str | None
    machine_type: str
    moves_itself: bool


async def what_it_says(config: AgentConfig, peer: Peer, own: str | None) -> QemuIdentity:
    """What a client of the helper says of its guest: through its monitor or, without one, its command line.

    ``own`` is the name of the guest whose socket the client came by; such a client need not say anything.

    Raises:
        Refused: The client says nothing, or its monitor belongs to another guest.
    """
    try:
        identity = await asyncio.to_thread(identify_process, peer.pid)
    except NotIdentified as error:
        if own is None:
            raise Refused(str(error)) from error
        identity = QemuIdentity()
    said = await _ask(config, peer.pid, identity, own)
    if said is None:
        return identity
    return replace(
        identity,
        uuid=said.uuid or identity.uuid,
        machine_type=said.machine_type or identity.machine_type,
        moves_itself=said.moves_itself,
    )


async def _ask(
    config: AgentConfig, pid: int, identity: QemuIdentity, own: str | None
) -> MonitorIdentity | None:
    """What the guest's monitor says; None if there is no monitor that answers."""
    name = own or identity.name or identity.uuid or ""
    monitor = monitor_of(config, name, identity.uuid, pid)
    if monitor is None:
        return None
    try:
        async with asyncio.timeout(_MONITOR_SECONDS):
            said = await ask_monitor(monitor, timeout=_MONITOR_SECONDS)
    except (QemuError, TimeoutError) as error:
        log.warning(
            "The monitor of a guest does not answer, so the command line of its QEMU counts.",
            guest=name,
            monitor=str(monitor),
            reason=str(error),
        )
        return None
    if own is None and None not in (said.name, identity.name) and said.name != identity.name:
        raise Refused(
            f"process {pid} is guest {identity.name}, and at {monitor} is guest {said.name}; "
            "correct qmp in the agent's file"
        )
    return said


async def ask_monitor(socket: Path, *, timeout: float) -> MonitorIdentity:
    """What a QEMU's monitor says. It serves one client at a time, so this closes the connection afterwards.

    Raises:
        QemuError: The monitor cannot be asked, or another client holds it (for ``timeout`` seconds).
    """
    async with await QemuMonitor.connect(socket, "QEMU", timeout=timeout) as monitor:
        uuid = await monitor.query_uuid()
        machine_type = str(await monitor.execute("qom-get", {"path": "/machine", "property": "type"}))
        return MonitorIdentity(
            name=await monitor.query_name(),
            uuid=None if uuid == _NO_UUID else uuid.lower(),
            machine_type=machine_type.removesuffix(_SUFFIX),
            moves_itself=await _moves_itself(monitor),
        )


async def _moves_itself(monitor: QemuMonitor) -> bool:
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


async def _list(monitor: QemuMonitor, path: str) -> list[_Property]:
    answer = await monitor.execute("qom-list", {"path": path})
    try:
        return msgspec.convert(answer, list[_Property])
    except msgspec.ValidationError as error:
        raise QemuError(f"{monitor.name}: QEMU's answer to qom-list cannot be read: {error}") from error
