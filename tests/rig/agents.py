"""Agents as operators run them: a file, a journal, one another's peers; killed and started anew."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Sequence

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.api.client import AgentClient
from holdover.config.agent_file import export_iqn
from tests.rig.processes import HOSTS, Process, Rig, free_port

__all__ = ["HOSTS", "RealAgent", "real_agents"]

_DEATH = 600.0

_LIMITS = """[limits]
connect = 5
step = 10
drain = 5
peer = 5
give_up = 2
recheck = 0.5
"""


class RealAgent:
    """One host's agent with one guest, which runs there or, with `incoming`, is to arrive.

    Attributes:
        name: The host's.
        api: The Unix socket at which operators ask it.
        address: HOST:PORT at which other agents ask it.
        client: Asks it.
    """

    def __init__(
        self,
        rig: Rig,
        name: str,
        guest: str,
        drives: Sequence[str],
        *,
        incoming: bool,
    ) -> None:
        self.name = name
        host = rig.hosts[name]
        self.api, self.address = host.api, host.address
        self.client = AgentClient(self.api, timeout=600)
        self._rig = rig
        self._guest = guest
        state = rig.folder / f"{name}.state"
        self._secret = ChapSecrets(state).file(guest)
        self._export = f"127.0.0.1:{free_port()}"
        self._process: Process | None = None
        devices = [f"scsi-block,id=disk{lun},drive={url},migrate-pr=on" for lun, url in enumerate(drives)]
        (rig.folder / f"{name}.toml").write_text(
            f'name = "{name}"\ninitiator = "iqn.2026-11.org.holdover:{name}"\nstate-dir = "{state}"\n'
            f'{host.toml(rig.hosts)}[journal]\nfile = "{rig.folder / name}.journal"\n{_LIMITS}'
            f'[[guest]]\nname = "{guest}"\nmachine = "pc"\nexport = "{self._export}"\n'
            f"incoming = {str(incoming).lower()}\ndevices = {json.dumps(devices)}\n",
            encoding="utf-8",
        )

    def url(self, lun: int = 0) -> str:
        """Where the guest's QEMU finds a device, with the secret."""
        secret = self._secret.read_text(encoding="ascii")
        return f"iscsi://{self._guest}%{secret}@{self._export}/{export_iqn(self._guest)}/{lun}"

    def start(self, kill_at: str = "") -> None:
        """Start it; `kill_at` as in `holdover.agent.handover.kill_hook`."""
        ports = [self.api, self.address, self._export]
        arguments = ["agent", "--config", f"{self.name}.toml"]
        hook = {"HOLDOVER_KILL_AT": kill_at} if kill_at else {}
        self._process = self._rig.start(self.name, arguments, ports=ports, environment=hook)

    def kill(self) -> None:
        """As by `kill -9`."""
        assert self._process is not None
        self._process.popen.kill()
        self._process.popen.wait()

    async def died(self) -> None:
        """Wait until it has killed itself."""
        assert self._process is not None
        popen = self._process.popen
        end = time.monotonic() + _DEATH
        while popen.poll() is None:
            assert time.monotonic() < end, f"{self.name} lives:\n{self._process.output()[-3000:]}"
            await asyncio.sleep(0.02)
        assert popen.returncode == -signal.SIGKILL, self._process.output()[-3000:]


def real_agents(rig: Rig, guest: str, drives: Sequence[str]) -> dict[str, RealAgent]:
    """An agent for each of `HOSTS`, not started; the guest runs on the first."""
    return {host: RealAgent(rig, host, guest, drives, incoming=host != HOSTS[0]) for host in HOSTS}
