"""An agent's configuration: from a TOML file, or from the command line for a single guest."""

from __future__ import annotations

import math
from pathlib import Path
from string import Formatter

import msgspec

from holdover.config.address import ApiAddress, ConfigError, HostPort, parse_api, parse_host_port
from holdover.config.exports import ExportsConfig
from holdover.config.libvirt import LibvirtConfig
from holdover.config.migration import MigrationConfig
from holdover.config.monitoring import HistoryConfig, LogConfig, MetricsConfig
from holdover.config.rules import Rule
from holdover.config.secrets import locator_of
from holdover.config.toml_problem import explain
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptionError, DeviceOptions, parse_device
from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import check_iscsi_name
from holdover.iscsi.target.allow_list import AllowList, parse_allow_list
from holdover.paths.locator import LocatorError

__all__ = [
    "DEFAULT_API",
    "DEFAULT_STATE_DIR",
    "AgentConfig",
    "ApiAddress",
    "ApiConfig",
    "ConfigError",
    "ExportsConfig",
    "GuestConfig",
    "HelperConfig",
    "HistoryConfig",
    "HostPort",
    "JournalConfig",
    "LibvirtConfig",
    "Limits",
    "LogConfig",
    "MetricsConfig",
    "MigrationConfig",
    "PeerConfig",
    "QmpConfig",
    "check_config",
    "devices_of",
    "export_iqn",
    "load_config",
    "monitor_of",
    "parse_api",
    "parse_guest",
    "parse_host_port",
]


DEFAULT_API = "unix:/run/holdover/api.sock"
"""The address of an agent's API. An agent listens there, and commands ask there, unless another is given."""

DEFAULT_STATE_DIR = "/var/lib/holdover"
"""The folder in which an agent keeps its journal and the secrets of exports, unless another is given."""

_MONITOR_FIELDS = frozenset({"name", "uuid", "pid"})


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time limits, in seconds.

    Attributes:
        connect: For connecting and logging in to a target.
        step: For one step of a handover on one LUN.
        drain: For the commands in flight when a guest leaves.
        peer: For one message to another agent, with that agent's work on the LUNs.
        give_up: How long the source waits for a destination that does not answer: first before it rolls a
            commit back, and then again before the roll back goes on without the destination.
        recheck: The time between two checks of what was prepared.
        handover: For the whole handover while the guest runs. After that time it is rolled back.
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
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"limits.{name} must be more than 0 s, and a number of seconds")


class GuestConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One guest: its devices in QEMU's syntax and where they are exported by iSCSI.

    Attributes:
        name: The guest's name, without `/`. Guests on the helper are known by the `-name` or the `-uuid` of
            their QEMU.
        machine: The machine type, as QEMU writes it. It decides the default of `migrate-pr`.
        devices: The disks, in QEMU's syntax. An export needs at least one; the place is the LUN number, and
            a reload attaches and detaches disks. Without this key the guest's disks are those that its QEMU
            gives to the helper.
        export: `HOST:PORT` at which the guest's QEMU finds its devices by iSCSI.
        export-open: Whether the export needs no CHAP; on loopback alone. Every process of the host can then
            read and write the guest's disks.
        export-initiators: Initiator names, or patterns of the shell, that may try to log in. Without this
            key, anybody may try.
        export-addresses: Addresses or networks that may connect, such as `192.0.2.0/24`. Without this key,
            all may connect.
        incoming: Whether the guest is going to arrive from another host.
        helper: A helper socket of this guest's own. Whoever connects there is this guest.
        qmp: The monitor of the guest's QEMU, for the agent alone.
    """

    name: str
    machine_type: str = msgspec.field(name="machine")
    devices: tuple[str, ...] = ()
    export: str | None = None
    export_open: bool = False
    export_initiators: tuple[str, ...] = ()
    export_addresses: tuple[str, ...] = ()
    incoming: bool = False
    helper: str | None = None
    qmp: str | None = None

    def __post_init__(self) -> None:
        try:
            allow = self.allow_list
        except ValueError as error:
            raise ValueError(f"guest.export-initiators, guest.export-addresses: {error}") from error
        if self.export is None and (self.export_open or allow != AllowList()):
            raise ValueError(f"guest {self.name}: sets who may log in to its export, and has no export")
        for what, path in (("helper", self.helper), ("qmp", self.qmp)):
            if path is not None and not Path(path).is_absolute():
                raise ValueError(f"guest.{what}: {path!r}: the path of the socket must be absolute")

    @property
    def allow_list(self) -> AllowList:
        """The initiators that may try to log in to the export."""
        return parse_allow_list(self.export_initiators, self.export_addresses)


class HelperConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sockets for QEMU's ``pr-manager-helper``.

    Attributes:
        socket: The socket of all guests. Without it each guest has a socket of its own, `helper` in its
            `[[guest]]`.
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
    """The file in which the agent keeps what it must not forget.

    Attributes:
        file: The path of the journal.
    """

    file: str

    def __post_init__(self) -> None:
        if not Path(self.file).is_absolute():
            raise ValueError(f"journal.file: {self.file!r}: the path must be absolute")


class QmpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sockets of monitors, for guests without a ``qmp`` of their own.

    Attributes:
        socket: A path with `{name}`, `{uuid}` or `{pid}` in it, which the agent fills in. QEMU serves one
            client at each monitor; this monitor is for the agent alone.
    """

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


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the API listens, and who may use it.

    Attributes:
        listen: One address or a list of them: `unix:PATH` for operators of this machine, `HOST:PORT` for peer
            hosts and for operators with a certificate. Over TCP the agent speaks only HTTPS.
        certificate, key, ca: Files in PEM; all three or none. Every `HOST:PORT`, every `[[peer]]`,
            `operators` and `readers` need them.
        operators: The names in the certificates of those who may ask everything that an operator may.
        readers: The names in the certificates of those who may read metrics, health, guests, and the states
            of handovers and migrations. They can change nothing.
        mode, group: Permission bits and group of the Unix socket. Whoever can open it is an operator.
    """

    listen: str | tuple[str, ...] = DEFAULT_API
    certificate: str | None = None
    key: str | None = None
    ca: str | None = None
    operators: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    mode: str = "0600"
    group: str | None = None

    def __post_init__(self) -> None:
        if len({each is None for each in (self.certificate, self.key, self.ca)}) > 1:
            raise ValueError("api.certificate, api.key and api.ca belong together; give all three or none")
        _permission_bits(self.mode, "api.mode")

    @property
    def addresses(self) -> tuple[ApiAddress, ...]:
        """The addresses at which the API listens."""
        texts = (self.listen,) if isinstance(self.listen, str) else self.listen
        return tuple(parse_api(text, "api.listen") for text in texts)


class PeerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host to which this host may hand over guests, and which may hand over guests to this host.

    Attributes:
        name: The name in that host's certificate.
        api: `HOST:PORT` of that host's agent. A Unix socket is refused, even if both agents run on one
            machine.
    """

    name: str
    api: str


class AgentConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"state_dir": "state-dir", "early_commit": "early-commit"},
):
    """The configuration of one agent.

    The other keys of the file are its sections: ``[api]``, ``[[peer]]``, ``[[guest]]``, ``[exports]``,
    ``[helper]``, ``[[rule]]``, ``[qmp]``, ``[journal]``, ``[limits]``, ``[migration]``, ``[libvirt]``,
    ``[metrics]``, ``[log]``, ``[history]``.

    Attributes:
        name: The name of this host. The certificate of this host names it too.
        initiator: The iSCSI initiator name of this host. No two hosts have the same one.
        state-dir: The folder for the agent's own files.
        early-commit: Whether a commit from this host may be done before it is on record, which saves four
            writes to disks while the guest stands still. An agent that is restarted during a migration then
            asks the other host whether it was committed. Until that host answers, the guest's commands wait.
    """

    name: str
    initiator: str
    state_dir: str = DEFAULT_STATE_DIR
    early_commit: bool = False
    api: ApiConfig = msgspec.field(default_factory=ApiConfig)
    peer: tuple[PeerConfig, ...] = ()
    guest: tuple[GuestConfig, ...] = ()
    exports: ExportsConfig = ExportsConfig()
    helper: HelperConfig | None = None
    rule: tuple[Rule, ...] = ()
    qmp: QmpConfig | None = None
    journal: JournalConfig | None = None
    limits: Limits = Limits()
    migration: MigrationConfig = MigrationConfig()
    libvirt: LibvirtConfig | None = None
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    history: HistoryConfig = HistoryConfig()

    @property
    def journal_file(self) -> Path:
        """The journal: that of ``[journal]``, or else ``journal`` in the folder ``state-dir``."""
        return Path(self.state_dir) / "journal" if self.journal is None else Path(self.journal.file)


def _permission_bits(text: str, what: str) -> None:
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise ValueError(f"{what}: {text!r} is not of the form 0660")


def export_iqn(guest: str) -> str:
    """The name of the iSCSI target that exports a guest's devices."""
    return f"iqn.2026-11.org.holdover:guest.{guest}"


def load_config(file: Path) -> AgentConfig:
    """Read an agent's TOML file.

    Raises:
        ConfigError: The file cannot be read or is not TOML, or a setting is unknown, missing or of the wrong
            type.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    try:
        config = msgspec.toml.decode(text, type=AgentConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: {explain(str(error), AgentConfig)}") from error
    check_config(config, str(file))
    return config


def check_config(config: AgentConfig, where: str) -> None:
    """Refuse settings that would fail only later, or that would work in another way than intended.

    Raises:
        ConfigError: A setting is refused; the message names ``where`` and the setting.
    """
    _check_api(config, where)
    try:
        check_iscsi_name(config.initiator)
    except IscsiNameError as error:
        raise ConfigError(f"{where}: initiator: {error}") from error
    names = [guest.name for guest in config.guest]
    for name in names:
        if not name or "/" in name or names.count(name) > 1:
            problem = "is empty" if not name else "contains /" if "/" in name else "is used twice"
            raise ConfigError(f"{where}: guest name {name!r} {problem}")
    shared = None if config.helper is None else config.helper.socket
    for guest in config.guest:
        parse_guest(guest, where)
        if guest.export is None and guest.helper is None and shared is None:
            raise ConfigError(
                f"{where}: guest {guest.name}: has no export, and there is no [helper] socket either"
            )
    if not Path(config.state_dir).is_absolute():
        raise ConfigError(f"{where}: state-dir: {config.state_dir!r}: the path must be absolute")
    _check_sockets(config, where)
    _check_metrics(config, where)


def _check_metrics(config: AgentConfig, where: str) -> None:
    if config.metrics.listen is None:
        return
    address = parse_host_port(config.metrics.listen, f"{where}: metrics.listen")
    if not address.loopback and not config.metrics.allow_remote:
        raise ConfigError(
            f"{where}: metrics.listen: {address} can be reached from other machines, and anybody there could "
            "read the names of guests and hosts; write allow-remote = true under [metrics], or listen on "
            "127.0.0.1, or let Prometheus ask the API with a certificate (api.readers)"
        )


def _check_sockets(config: AgentConfig, where: str) -> None:
    """Check that each socket belongs to one guest, or to all guests."""
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
    """The socket of a guest's monitor; None if none is configured, or if the socket is not there."""
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
        if isinstance(api.where, HostPort) and not mutual:
            raise ConfigError(
                f"{where}: api.listen: {api} is a TCP address, which every process of this machine, and "
                "every page in a browser here, can reach; give api.certificate, api.key and api.ca "
                f'(holdover ca init makes a small authority), or write listen = "{DEFAULT_API}"'
            )
    if not addresses:
        raise ConfigError(f"{where}: api.listen: give at least one unix:PATH or HOST:PORT")
    _check_peers(config, where)
    if (config.api.operators or config.api.readers) and not mutual:
        raise ConfigError(
            f"{where}: api.operators, api.readers: they are known by certificates; give api.certificate"
        )


def _check_peers(config: AgentConfig, where: str) -> None:
    names = [peer.name for peer in config.peer]
    for peer in config.peer:
        label = f"{where}: peer {peer.name!r}"
        if peer.name == config.name or names.count(peer.name) > 1:
            raise ConfigError(f"{label} {'is this host' if peer.name == config.name else 'is named twice'}")
        if not isinstance(parse_api(peer.api, f"{label}: api").where, HostPort):
            raise ConfigError(
                f"{label}: api: {peer.api} is a Unix socket, which answers operators alone; agents know each "
                "other by certificates, on one machine too: write HOST:PORT"
            )
        if config.api.certificate is None:
            raise ConfigError(
                f"{label}: agents know each other by certificates; give api.certificate, api.key and api.ca "
                "(holdover ca issue)"
            )


def parse_guest(guest: GuestConfig, where: str) -> tuple[MachineType, list[DeviceOptions], HostPort | None]:
    """The machine type, the devices and the export of a guest, parsed from its settings.

    Raises:
        ConfigError: A setting cannot be used; the message names ``where``, the guest and the setting.
    """
    label = f"{where}: guest {guest.name}"
    export = None if guest.export is None else parse_host_port(guest.export, f"{label}: export")
    if export is not None and guest.export_open and not export.loopback:
        raise ConfigError(
            f"{label}: export-open: {export} can be reached from other machines, and anybody there could "
            "read and write the guest's disks; remove export-open, so that CHAP is required, or listen "
            "on 127.0.0.1"
        )
    try:
        check_iscsi_name(export_iqn(guest.name))
        machine_type = MachineType.parse(guest.machine_type)
        devices = [parse_device(text) for text in guest.devices]
    except (IscsiNameError, DeviceOptionError) as error:
        raise ConfigError(f"{label}: {error}") from error
    if not devices and export is not None:
        raise ConfigError(f"{label}: has no device to export; give at least one scsi-block")
    ids = [device.id for device in devices if device.id is not None]
    for name in ids:
        if ids.count(name) > 1:
            raise ConfigError(f"{label}: device id {name!r} is used twice")
    for device in devices:
        try:
            locator_of(device)
        except LocatorError as error:
            raise ConfigError(f"{label}: drive: {error}") from error
    return machine_type, devices, export


def devices_of(config: AgentConfig) -> list[DeviceOptions]:
    """The devices of all guests in the agent's file.

    Raises:
        ConfigError: A device cannot be used.
    """
    return [device for guest in config.guest for device in parse_guest(guest, "configuration")[1]]
