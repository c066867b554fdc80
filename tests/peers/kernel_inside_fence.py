"""Run inside a kernel of the rig: fence agents around a guest that is handed over and rolled back.

The LUN is the kernel's own target, through its iSCSI. The guest and the other node reach it as the kernel's
disks, on which they run fence_scsi and sg_persist: the node directly, the guest through the export of the
agent of the host on which it runs. Writes what it sees to the file that is its argument; what it should see
is `test_kernel_fence`'s to say.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from holdover.api.client import AgentClient
from holdover.config.agent_file import AgentConfig, GuestConfig, Limits, export_iqn
from holdover.demo.hosts import certified_hosts
from holdover.iscsi.url import parse_iscsi_url
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.scsi.cdbs.cdb import Write
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_in import FullStatus
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import describe_response, is_unit_attention
from tests.peers.kernel_inside_iscsi import MODULES, Disk, disks
from tests.peers.kernel_inside_lun_iscsi import set_up
from tests.rig.kernel_init import load_module
from tests.rig.served import served

HOSTS = ("host-a", "host-b")
GUEST = "db1"
NAME = "iqn.2026-11.org.example:kernel"
URL = f"iscsi://127.0.0.1:3260/{NAME}/0"
EXPORTS = (3271, 3272)
GUEST_KEY, NODE_KEY, OTHER_KEY = "b0b", "a1", "9"
_PREFIX = "iqn.2026-11.org.example:"
_PATIENCE = 600.0


class Node(Disk):
    """A node of the cluster, with its disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.key = ""

    def log_in_to(self, name: str, target: str, port: str) -> None:
        """Get the disk of a target, logged in as ``name``."""
        before = disks()
        portal = ("-g", "1", "-a", "127.0.0.1", "-p", port)
        said = self.run("iscsistart", "-i", f"{_PREFIX}{name}", "-t", target, *portal)
        end = time.monotonic() + _PATIENCE
        while not (found := disks() - before):
            if time.monotonic() > end:
                raise TimeoutError(f"no disk appeared for {name}: {said}")
            time.sleep(0.1)
        self.name = f"/dev/{found.pop()}"

    def unfence(self, key: str) -> str:
        """fence_scsi registers this node's key, and reserves the LUN where nobody has."""
        self.key = key
        return self.run("fence_scsi", "-o", "on", "-a", "-k", key, "-d", self.name)

    def fence(self, key: str) -> str:
        """fence_scsi removes another node's key; it has its own node's key in a file."""
        Path("/run/cluster.key").write_text(f"{self.key}\n")
        return self.run("fence_scsi", "-o", "off", "-k", key, "-d", self.name)

    def persist(self, *arguments: str) -> str:
        return self.run("sg_persist", "-n", "--out", *arguments, self.name)


class Cluster:
    """The guest, where it runs now, and another node; and what the LUN says."""

    def __init__(self, folder: Path, clients: list[AgentClient]) -> None:
        self.clients = clients
        self.places = [Node(folder / host) for host in HOSTS]
        self.node = Node(folder / "n1")
        self.number = 0
        self.said: list[str] = []
        for each in (*self.places, self.node):
            each.folder.mkdir()

    async def do(self, what: Any, *arguments: str) -> str:
        """Something that waits for programs, beside the agents."""
        said: str = await asyncio.to_thread(what, *arguments)
        self.said.append(f"{getattr(what, '__name__', what)} {arguments}: {said}")
        return said

    async def commit(self) -> None:
        """The guest is handed over, and begins to run on the other host."""
        self.number += 1
        await self.clients[0].prepare(GUEST, f"h{self.number}", HOSTS[1])
        await self.clients[0].commit(GUEST, f"h{self.number}")
        there = self.places[1]
        there.key = self.places[0].key
        if not there.name:
            await asyncio.to_thread(there.log_in_to, "qemu-b", export_iqn(GUEST), str(EXPORTS[1]))

    async def roll_back(self) -> dict[str, Any]:
        """What the LUN says when the guest has come back, and who can write."""
        state = await self.clients[0].roll_back(GUEST, f"h{self.number}")
        self.said.append(f"roll back: {state.state}")
        return {"state": state.state, **(await self.seen())}

    async def seen(self) -> dict[str, Any]:
        status = FullStatus.decode(
            (await self.stranger(in_command(InServiceAction.READ_FULL_STATUS))).data_in
        )
        stranger = await self.stranger(Command(Write(8, 1, 10).encode(), bytes(512)))
        return {
            "registrants": {
                str(each.transport_id).split(",")[0].removeprefix(_PREFIX): [f"{each.key:x}", each.holder]
                for each in status.descriptors
            },
            "types": sorted({int(each.type) for each in status.descriptors if each.type is not None}),
            "writes": {
                "guest": await self.do(self.places[0].write),
                "n1": await self.do(self.node.write),
            },
            "stranger": describe_response(stranger),
        }

    async def stranger(self, command: Command) -> Response:
        """One command of an initiator that is no node: the kernel logs in to a target only once."""
        path = IscsiSessions().path(
            parse_iscsi_url(URL), InitiatorIdentity(f"{_PREFIX}stranger", isid_of("stranger"))
        )
        try:
            while is_unit_attention(said := await path.execute(command)):
                pass
        finally:
            await path.close()
        return said

    async def clear(self) -> None:
        """Nobody is registered any more."""
        await self.do(self.node.persist, "--register-ignore", "--param-sark=0xc")
        await self.do(self.node.persist, "--clear", "--param-rk=0xc")


@asynccontextmanager
async def agents(folder: Path) -> AsyncGenerator[list[AgentClient]]:
    """An agent for each host, with the guest's LUN and an export."""
    certified = certified_hosts(folder, HOSTS)
    tasks = []
    for name, port in zip(HOSTS, EXPORTS, strict=True):
        config = AgentConfig(
            name=name,
            initiator=f"{_PREFIX}{name}",
            state_dir=str(folder / f"{name}.state"),
            api=certified[name].api_config(),
            peer=certified[name].peers(certified),
            guest=(
                GuestConfig(
                    name=GUEST,
                    machine_type="pc-q35-10.2",
                    export=f"127.0.0.1:{port}",
                    export_open=True,
                    devices=(f"scsi-block,id=disk0,drive={URL},migrate-pr=on",),
                    incoming=name != HOSTS[0],
                ),
            ),
            limits=Limits(step=60, peer=60, connect=60),
        )
        task, host = served(config)
        tasks.append(task)
        await host
    clients = [AgentClient(certified[name].api, timeout=600) for name in HOSTS]
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def rows(cluster: Cluster) -> dict[str, Any]:
    """Each of them from a LUN on which nobody is registered."""
    here, there, node = *cluster.places, cluster.node
    seen: dict[str, Any] = {}

    await cluster.do(node.unfence, NODE_KEY)
    await cluster.do(here.unfence, GUEST_KEY)
    await cluster.commit()
    await cluster.do(there.fence, NODE_KEY)
    seen["preempts the holder"] = await cluster.roll_back()
    await cluster.clear()

    await cluster.do(node.unfence, NODE_KEY)
    await cluster.do(here.unfence, GUEST_KEY)
    await cluster.commit()
    await cluster.do(node.persist, "--release", f"--param-rk=0x{NODE_KEY}", "--prout-type=5")
    await cluster.do(there.unfence, GUEST_KEY)
    seen["reserves after a release"] = await cluster.roll_back()
    await cluster.clear()

    await cluster.commit()
    await cluster.do(there.unfence, GUEST_KEY)
    seen["registers and reserves"] = await cluster.roll_back()
    await cluster.clear()

    await cluster.do(here.unfence, GUEST_KEY)
    await cluster.commit()
    await cluster.do(there.unfence, OTHER_KEY)
    seen["changes its key"] = await cluster.roll_back()
    await cluster.clear()

    await cluster.do(here.unfence, GUEST_KEY)
    await cluster.commit()
    await cluster.do(there.persist, "--release", f"--param-rk=0x{GUEST_KEY}", "--prout-type=5")
    seen["releases"] = await cluster.roll_back()
    await cluster.clear()

    await cluster.do(node.unfence, NODE_KEY)
    await cluster.do(here.unfence, GUEST_KEY)
    await cluster.commit()
    await cluster.do(node.fence, GUEST_KEY)
    seen["is fenced"] = await cluster.roll_back()
    return seen


def kernel_target() -> None:
    """The kernel's target, and its initiator."""
    drivers = next(Path("/usr/lib/uml/modules").glob("*/kernel")) / "drivers" / "scsi"
    for module in MODULES:
        load_module(drivers / f"{module}.ko")
    set_up([f"{_PREFIX}{name}" for name in (*HOSTS, "n1", "stranger")])


async def main() -> dict[str, Any]:
    kernel_target()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with agents(folder) as clients:
            cluster = Cluster(folder, clients)
            here = cluster.places[0]
            try:
                await asyncio.to_thread(cluster.node.log_in_to, "n1", NAME, "3260")
                await asyncio.to_thread(here.log_in_to, "qemu-a", export_iqn(GUEST), str(EXPORTS[0]))
                return await rows(cluster)
            except BaseException:
                print(*cluster.said, sep="\n", flush=True)
                raise
            finally:
                for each in (*cluster.places, cluster.node):
                    await asyncio.to_thread(each.take_away)
                    await asyncio.to_thread(each.shell.close)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(main())))
