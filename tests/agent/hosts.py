"""Two agents and a target in one process, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from holdover.agent.client import AgentClient
from holdover.agent.config import AgentConfig, ApiConfig, GuestConfig, Limits
from holdover.agent.host import Host
from holdover.agent.orchestrator import Orchestrator, Progress
from holdover.agent.serve import serve
from holdover.iscsi.target import IscsiTarget
from holdover.iscsi.url import parse_iscsi_url
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.paths.iscsi import Identity, IscsiPath, IscsiSessions, isid_of
from holdover.scsi.cdb import Read, Write
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.reservation_in import FullStatus
from holdover.scsi.reservation_out import in_command, out_command
from holdover.scsi.sense import describe_response, is_unit_attention
from tests.rig.processes import free_port

IQN = "iqn.2026-11.org.example:san"
GUEST = "db1"
KEY = 0xC0FFEE
WRITE = Command(Write(8, 8, 10).encode(), b"guest" * 819 + b"\0")
READ = Command(Read(8, 8, 10).encode(), data_in_length=4096)


@dataclass
class Initiator:
    """Somebody who sends commands, past unit attentions."""

    path: IscsiPath

    async def tell(self, command: Command) -> Response:
        response = await self.path.execute(command)
        while is_unit_attention(response):
            response = await self.path.execute(command)
        return response

    async def must(self, command: Command) -> Response:
        response = await self.tell(command)
        assert response.good, describe_response(response)
        return response

    async def register(self, key: int = KEY, *, aptpl: bool = False) -> None:
        await self.must(out_command(OutServiceAction.REGISTER, 0, key, aptpl=aptpl))

    async def reserve(self, kind: ReservationType, key: int = KEY) -> None:
        await self.must(out_command(OutServiceAction.RESERVE, key, type=kind))


@dataclass
class San:
    """A target whose LUNs can be looked into, two agents, and initiators to them."""

    folder: Path
    luns: list[EmbeddedLun]
    target: IscsiTarget
    port: int
    hosts: dict[str, Host] = field(default_factory=dict)
    apis: dict[str, str] = field(default_factory=dict)
    clients: dict[str, AgentClient] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    sessions: IscsiSessions = field(default_factory=IscsiSessions)
    _paths: list[IscsiPath] = field(default_factory=list)

    def initiator(self, name: str, url: str) -> Initiator:
        identity = Identity(f"iqn.2026-11.org.example:{name}", isid_of(name))
        path = self.sessions.path(parse_iscsi_url(url), identity)
        self._paths.append(path)
        return Initiator(path)

    def url(self, lun: int = 0) -> str:
        return f"iscsi://127.0.0.1:{self.port}/{IQN}/{lun}"

    def guest_on(self, host: str, lun: int = 0) -> Initiator:
        return self.initiator("qemu", f"{self.hosts[host].guests[GUEST].export}/{lun}")

    def third(self, name: str = "third", lun: int = 0) -> Initiator:
        return self.initiator(name, self.url(lun))

    def orchestrator(self, source: str = "host-a", destination: str = "host-b") -> Orchestrator:
        return Orchestrator(GUEST, self.clients[source], self.clients[destination], self.progress.append)

    async def full_status(self, lun: int = 0) -> FullStatus:
        response = await self.third("observer", lun).must(in_command(InServiceAction.READ_FULL_STATUS))
        return FullStatus.decode(response.data_in)

    async def registrants(self, lun: int = 0) -> dict[str, tuple[int, bool]]:
        """Initiator name without its ISID -> key, and whether it holds the reservation."""
        found = (await self.full_status(lun)).descriptors
        return {
            str(each.transport_id).split(",")[0].rpartition(":")[2]: (each.key, each.holder) for each in found
        }

    async def close(self) -> None:
        for path in self._paths:
            await path.close()
        for client in self.clients.values():
            await client.close()


@asynccontextmanager
async def san(
    folder: Path,
    *,
    luns: int = 1,
    migrate_pr: Sequence[str] = ("on", "on"),
    hosts: Sequence[str] = ("host-a", "host-b"),
    step: float = 5.0,
) -> AsyncGenerator[San, None]:
    """The target and an agent for each of ``hosts``; the guest runs on the first."""
    devices = [EmbeddedLun.open(LunOptions(folder / f"lun{number}", 1 << 20)) for number in range(luns)]
    target = IscsiTarget(IQN, dict(enumerate(devices)))
    port = await target.start("127.0.0.1", 0)
    set_up = San(folder, devices, target, port)
    tasks = []
    for name, setting in zip(hosts, migrate_pr, strict=True):
        api = f"127.0.0.1:{free_port()}"
        config = AgentConfig(
            name=name,
            initiator=f"iqn.2026-11.org.example:{name}",
            api=ApiConfig(listen=api),
            guest=(
                GuestConfig(
                    name=GUEST,
                    machine="pc-q35-10.2",
                    export="127.0.0.1:0",
                    devices=tuple(
                        f"scsi-block,id=disk{number},drive={set_up.url(number)},migrate-pr={setting}"
                        for number in range(luns)
                    ),
                    incoming=name != hosts[0],
                ),
            ),
            limits=Limits(connect=2, step=step, drain=2),
        )
        ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(config, ready.set_result))
        tasks.append(task)

        def ended(done: asyncio.Task[None], ready: asyncio.Future[Host] = ready) -> None:
            if not ready.done():
                ready.set_exception(done.exception() or RuntimeError("the agent ended"))

        task.add_done_callback(ended)
        set_up.hosts[name] = await ready
        set_up.apis[name] = api
        set_up.clients[name] = AgentClient(api, timeout=20)
    try:
        yield set_up
    finally:
        await set_up.close()
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await target.close()
        for device in devices:
            await device.close()
