"""What an agent is told to do: by a TOML file, or by the command line for a single guest."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec

from holdover.guest.machine import MachineType
from holdover.guest.options import DeviceOptions, OptionError, parse_device
from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import check_iscsi_name
from holdover.paths.place import PlaceError, parse_place

__all__ = [
    "AgentConfig",
    "ApiConfig",
    "ConfigError",
    "GuestConfig",
    "HelperConfig",
    "HostPort",
    "Limits",
    "check_config",
    "export_iqn",
    "load_config",
    "parse_guest",
    "parse_host_port",
]


class ConfigError(ValueError):
    """A setting that cannot be used: names the file or option, the setting and what it may be."""


class HostPort(msgspec.Struct, frozen=True):
    """An address to listen at or to connect to."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long things may take, seconds.

    Attributes:
        connect: Connecting and logging in to a target.
        step: One step of a handover on one LUN.
        drain: Commands in flight when a guest leaves.
    """

    connect: float = 10.0
    step: float = 10.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise ValueError(f"limits.{name} must be more than 0 s")


class GuestConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One guest: its devices in QEMU's syntax and where they are exported by iSCSI.

    ``machine`` is the machine type of its QEMU, from which the default of ``migrate-pr`` comes.
    ``incoming`` marks a guest that is to arrive from another host. A guest without ``export`` comes through
    the helper's socket alone; its devices are then disks of this host.
    """

    name: str
    machine: str
    devices: tuple[str, ...]
    export: str | None = None
    incoming: bool = False


class HelperConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The socket for QEMU's ``pr-manager-helper``: its path, permission bits and group."""

    socket: str
    mode: str = "0660"
    group: str | None = None

    def __post_init__(self) -> None:
        if not Path(self.socket).is_absolute():
            raise ValueError(f"helper.socket: {self.socket!r}: the path of the socket must be absolute")
        try:
            bits = int(self.mode, 8)
        except ValueError:
            bits = -1
        if not 0 <= bits <= 0o777:
            raise ValueError(f"helper.mode: {self.mode!r} is not of the form 0660")


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the API listens."""

    listen: str


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One agent. In TOML: ``name``, ``initiator``, ``[api] listen``, ``[[guest]]``, ``[limits]``."""

    name: str
    initiator: str
    api: ApiConfig
    guest: tuple[GuestConfig, ...] = ()
    helper: HelperConfig | None = None
    limits: Limits = Limits()


def parse_host_port(text: str, what: str) -> HostPort:
    """``HOST:PORT`` or ``[IPv6]:PORT``.

    Raises:
        ConfigError: ``text`` is neither; ``what`` names the setting in the message.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"{what}: {text!r}: write an IPv6 address in brackets, [::1]:PORT")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"{what}: {text!r} is not HOST:PORT")
    return HostPort(host, int(port))


def export_iqn(guest: str) -> str:
    """The name of the target that exports a guest's devices."""
    return f"iqn.2026-11.org.holdover:guest.{guest}"


def load_config(file: Path) -> AgentConfig:
    """Read an agent's TOML file.

    Raises:
        ConfigError: It cannot be read, is not TOML, or a setting is unknown, missing or of the wrong type.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    try:
        config = msgspec.toml.decode(text, type=AgentConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: {error}") from error
    check_config(config, str(file))
    return config


def check_config(config: AgentConfig, where: str) -> None:
    """Refuse what would only fail later, or worse, work otherwise than meant.

    Raises:
        ConfigError: Names ``where`` and the setting.
    """
    api = parse_host_port(config.api.listen, f"{where}: api.listen")
    if not api.loopback:
        raise ConfigError(
            f"{where}: api.listen: {api} can be reached from other machines, and the API asks nobody who "
            "they are; listen on 127.0.0.1 and let hosts reach each other through a tunnel (ssh -L)"
        )
    try:
        check_iscsi_name(config.initiator)
    except IscsiNameError as error:
        raise ConfigError(f"{where}: initiator: {error}") from error
    names = [guest.name for guest in config.guest]
    for name in names:
        if not name or "/" in name or names.count(name) > 1:
            problem = "is empty" if not name else "contains /" if "/" in name else "is there twice"
            raise ConfigError(f"{where}: guest name {name!r} {problem}")
    for guest in config.guest:
        parse_guest(guest, where)
        if guest.export is None and config.helper is None:
            raise ConfigError(
                f"{where}: guest {guest.name}: has no export, and there is no [helper] socket either"
            )


def parse_guest(guest: GuestConfig, where: str) -> tuple[MachineType, list[DeviceOptions], HostPort | None]:
    """The parts of a guest's settings, each parsed.

    Raises:
        ConfigError: Names ``where``, the guest and the setting.
    """
    label = f"{where}: guest {guest.name}"
    export = None if guest.export is None else parse_host_port(guest.export, f"{label}: export")
    try:
        check_iscsi_name(export_iqn(guest.name))
        machine = MachineType.parse(guest.machine)
        devices = [parse_device(text) for text in guest.devices]
    except (IscsiNameError, OptionError) as error:
        raise ConfigError(f"{label}: {error}") from error
    if not devices:
        raise ConfigError(f"{label}: has no device; give at least one scsi-block")
    ids = [device.id for device in devices if device.id is not None]
    for name in ids:
        if ids.count(name) > 1:
            raise ConfigError(f"{label}: device id {name!r} is there twice")
    for device in devices:
        try:
            parse_place(device.drive)
        except PlaceError as error:
            raise ConfigError(f"{label}: drive: {error}") from error
    return machine, devices, export
