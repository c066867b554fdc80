"""The settings of a migration's stream, which both QEMUs need alike: capabilities and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec

from holdover.qemu.monitor import QemuError, QemuMonitor

_TLS_OBJECT = "holdover-migration-tls"


class Side(Enum):
    """A side of a migration."""

    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True)
class TlsFolder:
    """The folder with the certificates of one side, and the name that the other side's certificate must have.

    ``peer`` is for the source alone: the destination checks that its client's certificate comes from its
    authority.
    """

    folder: str
    peer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """The settings of a migration; None leaves a setting of QEMU as it is.

    Attributes:
        bandwidth: The most bytes per second.
        max_downtime: Milliseconds.
        auto_converge: Whether QEMU slows the guest down until the copy keeps up with it.
        multifd: The number of connections for memory; None: one for everything.
        compression: The method of multifd's compression; None: none.
        postcopy: Whether the guest may switch over before all of its memory has been sent.
        tls: The certificates for an encrypted stream; None: it is not encrypted.
    """

    bandwidth: int | None = None
    max_downtime: int | None = None
    auto_converge: bool = False
    multifd: int | None = None
    compression: str | None = None
    postcopy: bool = False
    tls: TlsFolder | None = None

    def capabilities(self, side: Side) -> dict[str, bool]:
        """Each capability that this sets, and whether it is switched on."""
        wanted = {
            "events": True,
            "multifd": self.multifd is not None or self.compression is not None,
            "postcopy-ram": self.postcopy,
        }
        if side is Side.SOURCE:
            wanted |= {"pause-before-switchover": True, "auto-converge": self.auto_converge}
        return wanted

    def parameters(self, side: Side) -> dict[str, object]:
        """The parameters that this sets."""
        found: dict[str, object] = {}
        if side is Side.SOURCE:
            if self.bandwidth is not None:
                found["max-bandwidth"] = self.bandwidth
            if self.max_downtime is not None:
                found["downtime-limit"] = self.max_downtime
        if self.multifd is not None or self.compression is not None:
            found["multifd-channels"] = self.multifd or 2
            found["multifd-compression"] = self.compression or "none"
        found["tls-creds"] = "" if self.tls is None else _TLS_OBJECT
        if side is Side.SOURCE:
            found["tls-hostname"] = "" if self.tls is None else self.tls.peer
        return found


class _Capability(msgspec.Struct, frozen=True):
    capability: str
    state: bool


async def set_up_stream(monitor: QemuMonitor, settings: StreamSettings, side: Side) -> None:
    """Set the capabilities and parameters of one side.

    A capability that a QEMU does not have is an error only if these settings switch it on.

    Raises:
        QemuError: QEMU refuses one of them, or cannot be asked.
    """
    try:
        known = msgspec.convert(await monitor.execute("query-migrate-capabilities"), list[_Capability])
    except msgspec.ValidationError as error:
        raise QemuError(f"{monitor.name}: its answer to query-migrate-capabilities is not valid") from error
    now = {each.capability: each.state for each in known}
    wanted = settings.capabilities(side)
    # pause-before-switchover is what keeps the guest safe: it is set even if QEMU does not list it, and QEMU
    # refuses it then
    changed = {name: state for name, state in wanted.items() if now.get(name, False) is not state}
    if changed:
        listed = [{"capability": name, "state": state} for name, state in changed.items()]
        await monitor.execute("migrate-set-capabilities", {"capabilities": listed})
    await _renew_tls(monitor, settings.tls, side)
    parameters = settings.parameters(side)
    if parameters:
        await monitor.execute("migrate-set-parameters", parameters)


async def _renew_tls(monitor: QemuMonitor, tls: TlsFolder | None, side: Side) -> None:
    """Give QEMU the certificates as they are now."""
    if tls is None:
        return
    objects = await monitor.execute("qom-list", {"path": "/objects"})
    if isinstance(objects, list) and any(_name(each) == _TLS_OBJECT for each in objects):
        await monitor.execute("object-del", {"id": _TLS_OBJECT})
    endpoint = "client" if side is Side.SOURCE else "server"
    await monitor.execute(
        "object-add",
        {
            "qom-type": "tls-creds-x509",
            "id": _TLS_OBJECT,
            "dir": tls.folder,
            "endpoint": endpoint,
            "verify-peer": True,
        },
    )


def _name(listed: object) -> object:
    return listed.get("name") if isinstance(listed, Mapping) else None
