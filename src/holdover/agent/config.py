"""What an agent is told to do: by a TOML file, or by the command line for a single guest."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from string import Formatter

import msgspec

from holdover.agent.rules import Rule
from holdover.guest.machine import MachineType
from holdover.guest.options import DeviceOptions, OptionError, parse_device
from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import check_iscsi_name
from holdover.paths.place import PlaceError, parse_place

__all__ = [
    "AgentConfig",
    "ApiAddress",
    "ApiConfig",
    "ConfigError",
    "GuestConfig",
    "HelperConfig",
    "HostPort",
    "JournalConfig",
    "Limits",
    "PeerConfig",
    "QmpConfig",
    "check_config",
    "export_iqn",
    "load_config",
    "monitor_of",
    "parse_api",
    "parse_guest",
    "parse_host_port",
]


_MONITOR_FIELDS = frozenset({"name", "uuid", "pid"})


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
        peer: One message to another agent, its work on the LUNs included.
        give_up: A destination that does not answer, before a commit is rolled back and before that goes on
            without it.
        recheck: From one look at what was prepared to the next.
        handover: The whole, while the guest runs; then it is rolled back.
    """

    connect: float = 10.0
    step: float = 10.0
    drain: float = 30.0
    peer: float = 15.0
    give_up: float = 15.0
    recheck: float = 5.0
    handover: float = 3600.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise ValueError(f"limits.{name} must be more than 0 s")


class GuestConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One guest: its devices in QEMU's syntax and where they are exported by iSCSI.

    ``machine`` is the machine type of its QEMU, from which the default of ``migrate-pr`` comes.
    ``incoming`` marks a guest that is to arrive from another host. A guest without ``export`` comes through
    the helper's socket alone; its devices are then disks of this host, and where none is given they are
    those that its QEMU hands over. ``helper`` is a socket of its own: whoever connects there is this guest.
    ``qmp`` is its QEMU's monitor.
    """

    name: str
    machine: str
    devices: tuple[str, ...] = ()
    export: str | None = None
    incoming: bool = False
    helper: str | None = None
    qmp: str | None = None

    def __post_init__(self) -> None:
        for what, path in (("helper", self.helper), ("qmp", self.qmp)):
            if path is not None and not Path(path).is_absolute():
                raise ValueError(f"guest.{what}: {path!r}: the path of the socket must be absolute")


class HelperConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sockets for QEMU's ``pr-manager-helper``.

    Attributes:
        socket: Of all guests; None: each guest has one of its own.
        mode, group: Permission bits and group of these sockets.
    """

    socket: str | None = None
    mode: str = "0660"
    group: str | None = None

    def __post_init__(self) -> None:
        if self.socket is not None and not Path(self.socket).is_absolute():
            raise ValueError(f"helper.socket: {self.socket!r}: the path of the socket must be absolute")
        _permission_bits(self.mode, "helper.mode")


class JournalConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the agent keeps what it must not forget."""

    file: str

    def __post_init__(self) -> None:
        if not Path(self.file).is_absolute():
            raise ValueError(f"journal.file: {self.file!r}: the path must be absolute")


class QmpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where monitors are of guests without a ``qmp`` of their own: {name}, {uuid} and {pid} are filled in."""

    socket: str

    def __post_init__(self) -> None:
        try:
            fields = [field for _, field, _, _ in Formatter().parse(self.socket) if field is not None]
        except ValueError as error:
            raise ValueError(f"qmp.socket: {self.socket!r}: {error}") from error
        if not Path(self.socket).is_absolute():
            raise ValueError(f"qmp.socket: {self.socket!r}: the path of the socket must be absolute")
        if not fields or set(fields) - _MONITOR_FIELDS:
            raise ValueError(
                f"qmp.socket: {self.socket!r} must have {{name}}, {{uuid}} or {{pid}} and no others"
            )


class ApiAddress(msgspec.Struct, frozen=True):
    """Where an API is: at a host and port, or at a Unix socket.

    ``tls`` is None where the address does not say it by ``https://`` or ``http://``.
    """

    where: HostPort | Path
    tls: bool | None = None

    def __str__(self) -> str:
        return f"unix:{self.where}" if isinstance(self.where, Path) else str(self.where)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return isinstance(self.where, Path) or self.where.loopback


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the API listens, and who may ask it.

    Attributes:
        listen: HOST:PORT or unix:PATH, one or several.
        certificate, key, ca: Files in PEM; with them every HOST:PORT is HTTPS with mutual TLS.
        operators: The names in certificates of those who may ask everything.
        mode, group: Of the Unix socket. Whoever can open it may ask everything.
    """

    listen: str | tuple[str, ...]
    certificate: str | None = None
    key: str | None = None
    ca: str | None = None
    operators: tuple[str, ...] = ()
    mode: str = "0600"
    group: str | None = None

    def __post_init__(self) -> None:
        if len({each is None for each in (self.certificate, self.key, self.ca)}) > 1:
            raise ValueError("api.certificate, api.key and api.ca belong together; give all three or none")
        _permission_bits(self.mode, "api.mode")

    @property
    def addresses(self) -> tuple[ApiAddress, ...]:
        """Where it listens."""
        texts = (self.listen,) if isinstance(self.listen, str) else self.listen
        return tuple(parse_api(text, "api.listen") for text in texts)


class PeerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host to which this one may hand over guests, and that may to this one.

    ``name`` is the one in its certificate, ``api`` where it is asked.
    """

    name: str
    api: str


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One agent. In TOML: ``name``, ``initiator``, ``[api]``, ``[[peer]]``, ``[[guest]]``, ``[helper]``,
    ``[[rule]]``, ``[qmp]``, ``[journal]``, ``[limits]``."""

    name: str
    initiator: str
    api: ApiConfig
    peer: tuple[PeerConfig, ...] = ()
    guest: tuple[GuestConfig, ...] = ()
    helper: HelperConfig | None = None
    rule: tuple[Rule, ...] = ()
    qmp: QmpConfig | None = None
    journal: JournalConfig | None = None
    limits: Limits = Limits()


def _permission_bits(text: str, what: str) -> None:
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise ValueError(f"{what}: {text!r} is not of the form 0660")


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


def parse_api(text: str, what: str) -> ApiAddress:
    """``HOST:PORT``, ``https://HOST:PORT``, ``http://HOST:PORT`` or ``unix:PATH``.

    Raises:
        ConfigError: ``text`` is none of these; ``what`` names the setting in the message.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:").removeprefix("//"))
        if not path.is_absolute():
            raise ConfigError(f"{what}: {text!r}: the path of the socket must be absolute, unix:/PATH")
        return ApiAddress(path)
    for scheme, tls in (("https://", True), ("http://", False)):
        if text.startswith(scheme):
            return ApiAddress(parse_host_port(text.removeprefix(scheme).removesuffix("/"), what), tls)
    return ApiAddress(parse_host_port(text, what))


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
    _check_api(config, where)
    try:
        check_iscsi_name(config.initiator)
    except IscsiNameError as error:
        raise ConfigError(f"{where}: initiator: {error}") from error
    names = [guest.name for guest in config.guest]
    for name in names:
        if not name or "/" in name or names.count(name) > 1:
            problem = "is empty" if not name else "contains /" if "/" in name else "is there twice"
            raise ConfigError(f"{where}: guest name {name!r} {problem}")
    shared = None if config.helper is None else config.helper.socket
    for guest in config.guest:
        parse_guest(guest, where)
        if guest.export is None and guest.helper is None and shared is None:
            raise ConfigError(
                f"{where}: guest {guest.name}: has no export, and there is no [helper] socket either"
            )
    _check_sockets(config, where)


def _check_sockets(config: AgentConfig, where: str) -> None:
    """Each socket is one guest's or that of all."""
    taken: dict[str, str] = {}
    if config.helper is not None and config.helper.socket is not None:
        taken[config.helper.socket] = "[helper]"
    for guest in config.guest:
        if guest.helper is None:
            continue
        if guest.helper in taken:
            raise ConfigError(
                f"{where}: guest {guest.name}: helper: {guest.helper} is that of {taken[guest.helper]}"
            )
        taken[guest.helper] = f"guest {guest.name}"


def monitor_of(config: AgentConfig, name: str, uuid: str | None, pid: int) -> Path | None:
    """The socket at which a guest's monitor is to be asked; None where none is configured or there."""
    own = next((guest.qmp for guest in config.guest if guest.name in (name, uuid)), None)
    if own is not None:
        return Path(own)
    if config.qmp is None:
        return None
    known = {"name": name, "uuid": uuid, "pid": pid or None}
    fields = {field for _, field, _, _ in Formatter().parse(config.qmp.socket) if field is not None}
    if "/" in f"{name}{uuid}" or any(known[field] is None for field in fields):
        return None
    found = Path(config.qmp.socket.format(**known))
    return found if found.exists() else None


def _check_api(config: AgentConfig, where: str) -> None:
    try:
        addresses = config.api.addresses
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    mutual = config.api.certificate is not None
    for api in addresses:
        if api.tls is not None:
            raise ConfigError(f"{where}: api.listen: write {api}; it is HTTPS where api.certificate is given")
        if not api.local and not mutual:
            raise ConfigError(
                f"{where}: api.listen: {api} can be reached from other machines, and without a certificate "
                "the API asks nobody who they are; give api.certificate, api.key and api.ca (holdover ca "
                "init makes a small authority), or listen on 127.0.0.1 or unix:PATH"
            )
    if not addresses:
        raise ConfigError(f"{where}: api.listen: give at least one HOST:PORT or unix:PATH")
    names = [peer.name for peer in config.peer]
    for peer in config.peer:
        label = f"{where}: peer {peer.name!r}"
        if peer.name == config.name or names.count(peer.name) > 1:
            raise ConfigError(f"{label} {'is this host' if peer.name == config.name else 'is there twice'}")
        api = parse_api(peer.api, f"{label}: api")
        if api.tls is False and not api.local:
            raise ConfigError(
                f"{label}: api: {peer.api} is plain HTTP to another machine; write https://{api}"
            )
        if (api.tls or not api.local) and not mutual:
            raise ConfigError(
                f"{label}: api: {api} wants to know who asks; give api.certificate, api.key and api.ca "
                "(holdover ca issue)"
            )
    if config.api.operators and not mutual:
        raise ConfigError(f"{where}: api.operators: they are known by certificates; give api.certificate")


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
    if not devices and export is not None:
        raise ConfigError(f"{label}: has no device to export; give at least one scsi-block")
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
