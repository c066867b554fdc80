"""``holdover agent``: runs the agent of one host until a signal ends it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import structlog

from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.daemon import credentials_of, serve
from holdover.agent.handover.recovery import RecoveryError
from holdover.agent.host import Host
from holdover.agent.signals import hold_signals
from holdover.agent.successor import Predecessor, Successor
from holdover.cli.daemons.descriptors import raise_descriptor_limit
from holdover.cli.daemons.switching import SWITCH_SECONDS
from holdover.cli.errors import refuse
from holdover.config.agent_file import (
    DEFAULT_API,
    DEFAULT_STATE_DIR,
    AgentConfig,
    ApiConfig,
    ConfigError,
    GuestConfig,
    LogConfig,
    PeerConfig,
    check_config,
    devices_of,
    load_config,
)
from holdover.config.secrets import secret_warnings
from holdover.config.two_addresses import warnings_of_file
from holdover.helper.listener import ListenerError
from holdover.helper.privileges import PrivilegeError
from holdover.journal.journal import JournalError
from holdover.journal.memory import MemoryJournal
from holdover.network import event_loop
from holdover.service.log import LogFormat, LogLevel, configure, write_late_lines
from holdover.service.notify import ServiceManager
from holdover.service.stored_sockets import StoredSockets


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """The options about the API and the peer hosts; each of ``peers`` is NAME=HOST:PORT."""

    api: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    peers: tuple[str, ...] = ()

    @property
    def given(self) -> list[str]:
        """The names of the options that were given."""
        values = {
            "--api": self.api,
            "--certificate": self.certificate,
            "--key": self.key,
            "--ca": self.ca,
            "--peer": self.peers,
        }
        return [option for option, value in values.items() if value]

    def settings(self) -> tuple[ApiConfig, tuple[PeerConfig, ...]]:
        """The sections ``[api]`` and ``[[peer]]`` that these options stand for.

        Raises:
            ConfigError: An option cannot be used.
        """
        pki = (self.certificate, self.key, self.ca)
        certificate, key, ca = (None if file is None else str(file) for file in pki)
        try:
            api = ApiConfig(listen=self.api or DEFAULT_API, certificate=certificate, key=key, ca=ca)
        except ValueError as error:
            raise ConfigError(f"command line: {error}") from error
        return api, tuple(_peer(text) for text in self.peers)


@dataclass(frozen=True, slots=True)
class Export:
    """The options about who may log in to the export: everybody (``open``), or who has the secret.

    The secret is in ``state_dir``.
    """

    open: bool = False
    state_dir: Path | None = None

    @property
    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [
            *(["--export-open"] if self.open else []),
            *(["--state-dir"] if self.state_dir is not None else []),
        ]


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The options about the log; None: as the agent's file says."""

    level: str | None = None
    form: str | None = None

    def configure(self, settings: LogConfig) -> None:
        """Set how this process logs."""
        level, form = self.level or settings.level, self.form or settings.format
        configure("holdover-agent", LogLevel(level), LogFormat(form), os.environ)


def _peer(text: str) -> PeerConfig:
    name, equals, api = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--peer {text}: write NAME=HOST:PORT")
    return PeerConfig(name=name, api=api)


def run(
    config: Path | None,
    single: Mapping[str, str | None],
    api_options: ApiOptions,
    export: Export,
    devices: list[str],
    incoming: bool,
    ephemeral: bool,
    log: LogOptions,
) -> None:
    """Run an agent: from its file, or for one guest from the options."""
    hold_signals()
    try:
        settings = _settings(config, single, api_options, export, devices, incoming)
    except ConfigError as error:
        refuse(str(error))
    log.configure(settings.log)
    for warning in (*secret_warnings(devices_of(settings), config), *warnings_of_file(settings)):
        structlog.get_logger().warning("The agent warns its operator.", reason=warning)
    raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    predecessor = Predecessor.of(os.environ)
    try:
        manager = ServiceManager.of(os.environ, os.getpid())
        # An OpenDisks comes before the first thread, and before anything listens.
        if predecessor is None:
            sockets = StoredSockets.of(os.environ, os.getpid(), manager)
            open_disks = OpenDisks.start_and_give_up()
        else:
            sockets = StoredSockets.among(predecessor.listeners, manager)
            open_disks = OpenDisks.inherit_and_give_up(predecessor.open_disks)
            _await_end(predecessor, settings)
        successor = Successor(manager, sockets, open_disks)
        reread = None if config is None else partial(load_config, config)
        journal = MemoryJournal() if ephemeral else None
        ready = partial(_ready, ephemeral=ephemeral)
        event_loop.run(serve(settings, ready, journal, reread, open_disks, manager, sockets, successor))
    except (OSError, ListenerError, ValueError, JournalError, RecoveryError, PrivilegeError) as error:
        refuse(f"agent {settings.name}: {error}", 1)
    successor.give_way()
    end_at_once()


def _await_end(predecessor: Predecessor, settings: AgentConfig) -> None:
    """Do all of this process's start that can be done while the old agent serves, and await its end."""
    credentials_of(settings)
    import_module("holdover.agent.api_server")
    if not predecessor.await_end():
        what = "the agent that this one was to replace does not end, or has ended in another way"
        refuse(f"agent {settings.name}: {what}", 1)


def end_at_once() -> None:
    """End the process when everything is closed.

    Python would take apart all modules and objects first, for some tenths of a second, while guests wait for
    the next agent.
    """
    write_late_lines()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _settings(
    config: Path | None,
    single: Mapping[str, str | None],
    api_options: ApiOptions,
    export: Export,
    devices: list[str],
    incoming: bool,
) -> AgentConfig:
    given = (
        [option for option, value in single.items() if value is not None] + api_options.given + export.given
    )
    if devices:
        given.append("--device")
    if incoming:
        given.append("--incoming")
    if config is not None:
        if given:
            raise ConfigError(f"{', '.join(given)}: not allowed beside --config; write it into {config}")
        return load_config(config)
    missing = [option for option, value in single.items() if value is None]
    if not devices:
        missing.append("--device")
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing; give them, or --config FILE")
    value = {option: text or "" for option, text in single.items()}
    api, peers = api_options.settings()
    settings = AgentConfig(
        name=value["--name"],
        initiator=value["--initiator"],
        state_dir=str((export.state_dir or Path(DEFAULT_STATE_DIR)).absolute()),
        api=api,
        peer=peers,
        guest=(
            GuestConfig(
                name=value["--guest"],
                machine_type=value["--machine"],
                export=value["--export"],
                export_open=export.open,
                devices=tuple(devices),
                incoming=incoming,
            ),
        ),
    )
    check_config(settings, "command line")
    return settings


def _ready(host: Host, *, ephemeral: bool) -> None:
    # The objects that exist now stay. To search them for garbage takes long in an agent with many guests.
    gc.collect()
    gc.freeze()
    for address in host.config.api.addresses:
        print(f"{host.config.name}: API at {address}", flush=True)
    kept = "in memory alone (--ephemeral): when this agent ends, it forgets guests, keys and handovers"
    print(f"{host.config.name}: journal {kept if ephemeral else host.config.journal_file}", flush=True)
    for guest in host.guests.values():
        gate = f" ({guest.devices[0].block.gate.value})" if guest.devices else ""
        print(f"{host.config.name}: guest {guest.name}{gate} at {guest.export or 'the helper'}", flush=True)
    for socket in host.helpers.paths:
        print(f"{host.config.name}: helper at {socket}", flush=True)
