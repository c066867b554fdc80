"""Agents as operators start them: a TOML file and `holdover agent`, each a process of its own."""

from __future__ import annotations

import configparser
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.servers import running
from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.api.client import AgentClient
from holdover.config.agent_file import export_iqn
from holdover.demo.hosts import CertifiedHost
from holdover.demo.processes import free_port

GUEST = "db1"

_UNIT = Path(__file__).parents[1] / "systemd" / "holdover-agent.service"


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent with one guest.

    Attributes:
        api: The Unix socket of the agent's API.
        portal: HOST:PORT of the guest's export.
        iqn: The name of the export's target.
        secret: The file with the export's CHAP secret; the user is `GUEST`.
        pid: The agent's process.
    """

    api: str
    portal: str
    iqn: str
    secret: Path
    pid: int

    def url(self, lun: int = 0) -> str:
        """The URL at which the guest finds a device, with the secret."""
        secret = self.secret.read_text(encoding="ascii")
        return f"iscsi://{GUEST}%{secret}@{self.portal}/{self.iqn}/{lun}"


@contextmanager
def agent(
    folder: Path,
    host: str,
    hosts: Mapping[str, CertifiedHost],
    drives: Sequence[str],
    *,
    incoming: bool = False,
    journals: Path | None = None,
    helper: Path | None = None,
    early: bool = False,
) -> Iterator[Agent]:
    """Run an agent until the block ends; its guest has a device with migrate-pr for each URL in ``drives``.

    ``hosts`` are one another's peers. The journal is in ``journals``, or else in ``folder``. ``helper`` is
    the helper's socket for all guests; None for no such socket. ``early`` sets ``early-commit``.
    """
    address, export = hosts[host].address, f"127.0.0.1:{free_port()}"
    config = folder / f"{host}.toml"
    text = settings(journals or folder, host, hosts, export, drives, incoming=incoming, early=early)
    text += f'qmp = "{monitor_of(folder, host)}"\n'
    if helper is not None:
        text += f'[helper]\nsocket = "{helper}"\n'
    config.write_text(text, encoding="utf-8")
    command = [*_priority(), sys.executable, "-m", "holdover", "agent", "--config", str(config)]
    ports = tuple(int(each.rpartition(":")[2]) for each in (address, export))
    with running(command, ports, folder / f"{host}.log", own_environment(folder)) as pid:
        secret = ChapSecrets(_state_of(journals or folder, host)).file(GUEST)
        yield Agent(hosts[host].api, export, export_iqn(GUEST), secret, pid)


def _priority() -> list[str]:
    """What starts an agent with the priority that its unit gives it; nothing where that is not allowed."""
    if os.geteuid() != 0:
        return []
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(_UNIT, encoding="utf-8")
    return ["nice", "-n", parser["Service"]["Nice"]]


def monitor_of(folder: Path, host: str) -> Path:
    """The monitor of the guest's QEMU on a host, which the agent there uses."""
    return folder / f"{host}.qmp"


async def wait_for_api(api: str) -> None:
    """Wait until an agent's API answers. Until then the agent imports what the API needs, and so it has less
    time for its guests' commands than it has later."""
    client = AgentClient(api)
    await client.guests()
    await client.close()


def processor_time(pid: int) -> float:
    """The seconds for which the threads of a process have run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def settings(
    journals: Path,
    host: str,
    hosts: Mapping[str, CertifiedHost],
    export: str,
    drives: Sequence[str],
    *,
    incoming: bool,
    early: bool = False,
) -> str:
    """The TOML of such an agent."""
    devices = [f"scsi-block,id=disk{lun},drive={url},migrate-pr=on" for lun, url in enumerate(drives)]
    # A list of strings looks the same in JSON and in TOML.
    return (
        f'name = "{host}"\ninitiator = "iqn.2026-11.org.holdover:{host}"\n'
        f'state-dir = "{_state_of(journals, host)}"\n'
        f"early-commit = {str(early).lower()}\n"
        f"{hosts[host].toml(hosts)}"
        f'[journal]\nfile = "{journals / host}.journal"\n'
        f'[[guest]]\nname = "{GUEST}"\nmachine = "pc"\nexport = "{export}"\n'
        f"incoming = {str(incoming).lower()}\ndevices = {json.dumps(devices)}\n"
    )


def _state_of(journals: Path, host: str) -> Path:
    return journals / f"{host}.state"


def own_environment(folder: Path) -> dict[str, str]:
    """An environment in which Holdover keeps its persistent files in ``folder``."""
    places = {"XDG_STATE_HOME": "state", "XDG_DATA_HOME": "data", "XDG_RUNTIME_DIR": "run"}
    return {**os.environ, **{name: str(folder / place) for name, place in places.items()}}
