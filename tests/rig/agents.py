"""Agents as operators run them: a file, a journal, one another's peers; killed and started anew."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Mapping, Sequence

from holdover.agent.client import AgentClient
from holdover.agent.config import export_iqn
from tests.rig.processes import Process, Rig, free_port

__all__ = ["HOSTS", "RealAgent", "real_agents"]

HOSTS = ("host-a", "host-b")
_DEATH = 60.0

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
        api: Where it is asked.
        client: Asks it.
    """

    def __init__(
        self,
        rig: Rig,
        name: str,
        guest: str,
        drives: Sequence[str],
        apis: Mapping[str, str],
        *,
        incoming: bool,
    ) -> None:
        self.name = name
        self.api = apis[name]
        self.client = AgentClient(self.api, timeout=60)
        self._rig = rig
        self._guest = guest
        self._export = f"127.0.0.1:{free_port()}"
        self._process: Process | None = None
        peers = "".join(
            f'[[peer]]\nname = "{peer}"\napi = "{api}"\n' for peer, api in apis.items() if peer != name
        )
        devices = [f"scsi-block,id=disk{lun},drive={url},migrate-pr=on" for lun, url in enumerate(drives)]
        (rig.folder / f"{name}.toml").write_text(
            f'name = "{name}"\ninitiator = "iqn.2026-11.org.holdover:{name}"\n[api]\nlisten = "{self.api}"\n'
            f'{peers}[journal]\nfile = "{rig.folder / name}.journal"\n{_LIMITS}'
            f'[[guest]]\nname = "{guest}"\nmachine = "pc"\nexport = "{self._export}"\n'
            f"incoming = {str(incoming).lower()}\ndevices = {json.dumps(devices)}\n",
            encoding="utf-8",
        )

    def url(self, lun: int = 0) -> str:
        """Where the guest's QEMU finds a device."""
        return f"iscsi://{self._export}/{export_iqn(self._guest)}/{lun}"

    def start(self, kill_at: str = "") -> None:
        """Start it; `kill_at` as in `holdover.agent.kill_hook`."""
        ports = [int(address.rpartition(":")[2]) for address in (self.api, self._export)]
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
    apis = {host: f"127.0.0.1:{free_port()}" for host in HOSTS}
    return {host: RealAgent(rig, host, guest, drives, apis, incoming=host != HOSTS[0]) for host in HOSTS}
