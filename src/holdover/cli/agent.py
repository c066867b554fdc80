"""``holdover agent``: the daemon of one host, until a signal ends it."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog
import uvloop

from holdover.agent.config import (
    AgentConfig,
    ApiConfig,
    ConfigError,
    GuestConfig,
    HostPort,
    check_config,
    load_config,
)
from holdover.agent.host import Host
from holdover.agent.recovery import RecoveryError
from holdover.agent.serve import serve
from holdover.cli.descriptors import raise_descriptor_limit
from holdover.cli.errors import refuse
from holdover.cli.switching import SWITCH_SECONDS
from holdover.helper.listener import ListenerError
from holdover.journal.journal import JournalError

__all__ = ["run"]


def run(config: Path | None, single: Mapping[str, str | None], devices: list[str], incoming: bool) -> None:
    """Run an agent from a TOML file, or for one guest from the options in ``single``."""
    try:
        settings = _settings(config, single, devices, incoming)
    except ConfigError as error:
        refuse(str(error))
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        uvloop.run(serve(settings, _ready))
    except (OSError, ListenerError, ValueError, JournalError, RecoveryError) as error:
        refuse(f"agent {settings.name}: {error}", 1)


def _settings(
    config: Path | None, single: Mapping[str, str | None], devices: list[str], incoming: bool
) -> AgentConfig:
    given = [option for option, value in single.items() if value is not None]
    if devices:
        given.append("--device")
    if incoming:
        given.append("--incoming")
    if config is not None:
        if given:
            raise ConfigError(f"{', '.join(given)}: not beside --config; write it into {config}")
        return load_config(config)
    missing = [option for option, value in single.items() if value is None]
    if not devices:
        missing.append("--device")
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing; or give --config FILE")
    value = {option: text or "" for option, text in single.items()}
    settings = AgentConfig(
        name=value["--name"],
        initiator=value["--initiator"],
        api=ApiConfig(listen=value["--api"]),
        guest=(
            GuestConfig(
                name=value["--guest"],
                machine=value["--machine"],
                export=value["--export"],
                devices=tuple(devices),
                incoming=incoming,
            ),
        ),
    )
    check_config(settings, "command line")
    return settings


def _ready(host: Host) -> None:
    # what is there now stays: a look through all of it would hold an agent with many guests up for long
    gc.collect()
    gc.freeze()
    for address in host.config.api.addresses:
        secure = (
            ", HTTPS"
            if host.config.api.certificate is not None and isinstance(address.where, HostPort)
            else ""
        )
        print(f"{host.config.name}: API at {address}{secure}", flush=True)
    for guest in host.guests.values():
        gate = f" ({guest.devices[0].block.gate.value})" if guest.devices else ""
        print(f"{host.config.name}: guest {guest.name}{gate} at {guest.export or 'the helper'}", flush=True)
    for socket in host.helper_sockets:
        print(f"{host.config.name}: helper at {socket}", flush=True)
