"""Agents as operators start them: a TOML file and `holdover agent`, each a process of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.servers import running
from holdover.agent.config import export_iqn
from holdover.demo.processes import free_port

__all__ = ["GUEST", "Agent", "agent", "new_apis", "own_environment", "settings"]

GUEST = "db1"


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent with one guest.

    Attributes:
        api: HOST:PORT of its API.
        portal: HOST:PORT of the guest's export.
        iqn: Name of that target.
    """

    api: str
    portal: str
    iqn: str


def new_apis(*hosts: str) -> dict[str, str]:
    """Addresses for the agents of these hosts, which are one another's peers."""
    return {host: f"127.0.0.1:{free_port()}" for host in hosts}


@contextmanager
def agent(
    folder: Path,
    host: str,
    apis: Mapping[str, str],
    drives: Sequence[str],
    *,
    incoming: bool = False,
    journals: Path | None = None,
) -> Iterator[Agent]:
    """An agent whose guest has a device for each URL in ``drives``, with migrate-pr, until the block ends.

    ``apis`` are those of all hosts; the journal is in ``journals``, else in ``folder``.
    """
    api, export = apis[host], f"127.0.0.1:{free_port()}"
    config = folder / f"{host}.toml"
    config.write_text(
        settings(journals or folder, host, apis, export, drives, incoming=incoming), encoding="utf-8"
    )
    command = [sys.executable, "-m", "holdover", "agent", "--config", str(config)]
    ports = tuple(int(address.rpartition(":")[2]) for address in (api, export))
    with running(command, ports, folder / f"{host}.log", own_environment(folder)):
        yield Agent(api, export, export_iqn(GUEST))


def settings(
    journals: Path, host: str, apis: Mapping[str, str], export: str, drives: Sequence[str], *, incoming: bool
) -> str:
    """The TOML of such an agent."""
    devices = [f"scsi-block,id=disk{lun},drive={url},migrate-pr=on" for lun, url in enumerate(drives)]
    peers = (f'[[peer]]\nname = "{name}"\napi = "{where}"\n' for name, where in apis.items() if name != host)
    # a list of strings is the same in JSON and in TOML
    return (
        f'name = "{host}"\ninitiator = "iqn.2026-11.org.holdover:{host}"\n'
        f'[api]\nlisten = "{apis[host]}"\n{"".join(peers)}'
        f'[journal]\nfile = "{journals / host}.journal"\n'
        f'[[guest]]\nname = "{GUEST}"\nmachine = "pc"\nexport = "{export}"\n'
        f"incoming = {str(incoming).lower()}\ndevices = {json.dumps(devices)}\n"
    )


def own_environment(folder: Path) -> dict[str, str]:
    """In which what Holdover keeps beyond its end is in ``folder``."""
    places = {"XDG_STATE_HOME": "state", "XDG_DATA_HOME": "data", "XDG_RUNTIME_DIR": "run"}
    return {**os.environ, **{name: str(folder / place) for name, place in places.items()}}
