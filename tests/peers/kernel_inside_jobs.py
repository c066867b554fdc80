"""Run inside a kernel of the rig: the agents of two hosts carry a real guest on a real host disk.

/dev/sda is the first host's nexus, /dev/sdb the second's, /dev/sdc a third that never registers. No file
names the guest: it comes by the helpers' sockets. Writes what it sees to the file that is its first argument;
then come a kernel and an initrd for the guest. What it should see is `test_kernel_jobs`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from holdover.api.client import AgentClient, AgentError
from holdover.api.migration_documents import MigrationRequest, MigrationState, StartRequest
from holdover.api.placement_documents import HostDeclaration
from holdover.demo.machines.image import GuestImage
from holdover.demo.machines.process import QemuProcess
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.reservation.reservation_in import FullStatus
from holdover.scsi.reservation.reservation_out import in_command
from tests.peers.kernel_inside_helper import GUEST, HOSTS, KEY, TYPES, Site
from tests.rig.guest_commands import WRITE_ON, preempt, register

KIND = 5
"""The type of the reservation with which agents die and hosts are declared dead."""
KILLS = {
    "source, before it records that it is committed": (True, "committed:1:before"),
    "source, after that": (True, "committed:1:after"),
    "destination": (False, "preempting:1:after"),
}
"""Whose agent dies amid the commit: whether it is the source's, and the instant."""
_PAUSE = 0.2


class JobSite(Site):
    """The agents as processes that die and come back, and the guest where it is now."""

    def __init__(self, folder: Path, image: GuestImage) -> None:
        super().__init__(folder, image)
        self.agents: dict[int, subprocess.Popen[bytes]] = {}
        self.clients = [AgentClient(self.certified[host].api, timeout=600) for host in HOSTS]

    def start_agent(self, host: int, kill_at: str = "") -> None:
        name = HOSTS[host]
        config = self.folder / f"{name}.toml"
        config.write_text(
            f'name = "{name}"\ninitiator = "iqn.2026-11.org.example:{name}"\n'
            f'state-dir = "{self.folder / name}.state"\n{self.certified[name].toml(self.certified)}'
            f'[helper]\nsocket = "{self.helper(host)}"\n[qmp]\nsocket = "{self.folder}/{name}-{{name}}.qmp"\n'
            '[[rule]]\nguest = "db*"\nlun = "naa.6001405*"\nmigrate-pr = "on"\n'
            "[limits]\nstep = 60\nconnect = 60\npeer = 60\n"
        )
        self.helper(host).unlink(missing_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.agents[host] = subprocess.Popen(
                [sys.executable, "-m", "holdover", "agent", "--config", str(config)],
                env=os.environ | ({"HOLDOVER_KILL_AT": kill_at} if kill_at else {}),
                user="root",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def listens(self, host: int) -> None:
        """Wait until an agent serves its helper front end."""
        while not self.helper(host).exists():
            assert self.agents[host].poll() is None, f"the agent of {HOSTS[host]} has ended"
            time.sleep(_PAUSE)

    def kill_agent(self, host: int) -> None:
        self.agents[host].kill()
        self.agents[host].wait()

    def start_qemu(self, host: int, helper: Path, incoming: str | None = None) -> QemuProcess:
        qemu = super().start_qemu(host, helper, incoming)
        monitor = self.folder / f"{HOSTS[host]}-{GUEST}.qmp"
        monitor.unlink(missing_ok=True)
        monitor.symlink_to(qemu.qmp_path)
        return qemu

    async def migrate_as_job(self, dies: str = "") -> dict[str, Any]:
        """To the other host by the agents; the agent that ``dies``, one of `KILLS`, comes back."""
        here, there = self.here, 1 - self.here
        is_source, instant = KILLS.get(dies, (True, ""))
        victim = here if is_source else there
        if dies:
            self.kill_agent(victim)
            self.start_agent(victim, instant)
            self.listens(victim)
            await self.runs(here)
        qemu = self.start_qemu(there, self.helper(there), "defer")
        request = MigrationRequest(migration_id=secrets.token_hex(8), to=HOSTS[there])
        await self.clients[here].migrate(GUEST, request)
        if dies:
            await asyncio.to_thread(self.agents[victim].wait)
            self.start_agent(victim)
            self.listens(victim)
        state = await self._ended(here)
        if state.moved:
            await self.moved(qemu)
        else:
            await qemu.end()
        said = {"phase": state.phase, "reason": state.reason, "now": state.now}
        return said | {"here": self.here, "after": await self.seen()}

    async def _ended(self, host: int) -> MigrationState:
        while True:
            try:
                state = await self.clients[host].migration(GUEST)
            except AgentError:
                pass  # it starts
            else:
                if not state.open:
                    return state
            await asyncio.sleep(_PAUSE)

    async def runs(self, host: int) -> None:
        """Wait until the guest's commands pass on a host."""
        while await self.gates(host) != ["running"]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(_PAUSE)

    async def gates(self, host: int) -> list[str]:
        try:
            return [device.gate for device in (await self.clients[host].guest(GUEST)).devices]
        except AgentError:
            return []  # the agent starts, or does not know the guest yet

    async def held(self) -> list[int]:
        """The target ports on whose nexuses somebody holds the reservation."""
        status = await self.ask(2, in_command(InServiceAction.READ_FULL_STATUS))
        return [each.relative_target_port for each in FullStatus.decode(status).descriptors if each.holder]

    async def warnings(self, host: int) -> list[str]:
        return [each for each in (await self.clients[host].guests()).warnings if GUEST in each]

    async def start_guest(self) -> str:
        """`holdover guest start` where the guest is to be: what was said, or why it was refused."""
        request = StartRequest(handover_id=secrets.token_hex(8))
        try:
            return (await self.clients[self.here].start_guest(GUEST, request)).text
        except AgentError as error:
            return str(error)

    async def shut_down(self) -> None:
        await self.console.close()
        await self.qemu.end()

    async def start_elsewhere(self, until: str) -> str:
        """The guest boots on the other host, whose agent is asked for it until it says this; what it said."""
        self.here = 1 - self.here
        # the host that had it may not have noticed yet that its QEMU has ended
        while until not in (said := await self.start_guest()):  # noqa: ASYNC110 - no event
            await asyncio.sleep(_PAUSE)
        await self.boot(self.helper(self.here))
        return said


@asynccontextmanager
async def job_site(folder: Path, image: GuestImage) -> AsyncGenerator[JobSite]:
    site = JobSite(folder, image)
    try:
        for host in (0, 1):
            site.start_agent(host)
        for host in (0, 1):
            site.listens(host)
        yield site
    except BaseException:
        for name in HOSTS:
            sys.stdout.write(f"--- {name}\n{(folder / f'{name}.log').read_text()}\n")
        raise
    finally:
        for client in site.clients:
            await client.close()
        for host in site.agents:
            site.kill_agent(host)


async def there_and_back(site: JobSite, kind: int) -> dict[str, Any]:
    """The guest reserves, writes all the time, and goes to the other host and home."""
    await site.reserve(kind)
    found: dict[str, Any] = {"begins": await site.seen()}
    await site.shell(WRITE_ON)
    found["there"] = await site.migrate_as_job()
    found["back"] = await site.migrate_as_job()
    found["counts"] = await site.shell("workload stop")
    await site.leave()
    return found


async def with_a_kill(site: JobSite, dies: str) -> dict[str, Any]:
    """The guest moves while it writes, and an agent dies amid the commit."""
    await site.shell(WRITE_ON)
    found = {"began on": site.here} | await site.migrate_as_job(dies)
    return found | {"counts": await site.shell("workload stop")}


async def without_its_host(site: JobSite) -> dict[str, Any]:
    """The agent and the QEMU of the guest's host die; its QEMU is started on the other one.

    On disks of the host nothing tells whose registration the dead host's is: the guest's cluster removes it.
    """
    before = site.here
    site.kill_agent(before)
    await site.shut_down()
    refused = await site.start_elsewhere("declare-dead")
    while not (waits := await site.warnings(site.here)):  # noqa: ASYNC110 - no event
        await asyncio.sleep(_PAUSE)
    found: dict[str, Any] = {
        "refused": refused,
        "waits": waits,
        "gates": await site.gates(site.here),
        "held": await site.held(),
    }
    await site.clients[site.here].declare_host(
        HOSTS[before], HostDeclaration(dead=True, why="its power is off")
    )
    await site.runs(site.here)
    found |= {"here": site.here, "declared": await site.seen()}
    await site.shell(register(KEY))
    found["preempts"] = await site.shell(preempt(KEY, KIND))
    found["after"] = await site.seen()
    # the dead host comes back
    site.start_agent(before)
    while (gates := await site.gates(before)) == []:  # noqa: ASYNC110 - no event
        await asyncio.sleep(_PAUSE)
    return found | {"back": gates, "said": await site.warnings(before)}


def _note(observed: dict[str, Any]) -> None:
    """Print how far it is: the log of a run that fails."""
    print(f"{time.monotonic():.1f} s: {list(observed)[-1]}", flush=True)


async def main(image: GuestImage) -> dict[str, Any]:
    observed: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir="/run") as name:
        async with job_site(Path(name), image) as site:
            await site.boot(site.helper(0))
            for kind in TYPES:
                observed[f"type {kind}"] = await there_and_back(site, kind)
                _note(observed)
            await site.reserve(KIND)
            for dies in KILLS:
                observed[f"{dies} dies"] = await with_a_kill(site, dies)
                _note(observed)
            await site.shut_down()
            shut_down_on = site.here
            said = await site.start_elsewhere("was handed over")
            await site.runs(site.here)
            observed["starts elsewhere"] = {
                "shut down on": shut_down_on,
                "said": said,
                "here": site.here,
                "after": await site.seen(),
            }
            _note(observed)
            observed["without its host"] = await without_its_host(site)
            await site.shut_down()
    return observed


if __name__ == "__main__":
    # this kernel kills a process with threads that uses vfork
    vars(subprocess)["_USE_VFORK"] = False
    result, kernel, initrd = (Path(argument) for argument in sys.argv[1:4])
    result.write_text(json.dumps(asyncio.run(main(GuestImage(kernel, initrd)))))
