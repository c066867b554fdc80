"""Two agents and a target in one process, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from holdover.agent.daemon import serve
from holdover.agent.host import Host
from holdover.api.client import AgentClient
from holdover.config.agent_file import AgentConfig, ExportsConfig, GuestConfig, Limits
from holdover.demo.hosts import CertifiedHost, certified_hosts
from holdover.iscsi.target.connection import TargetConnection
from holdover.iscsi.target.target import IscsiTarget
from holdover.iscsi.url import parse_iscsi_url
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import HandoverRecord, JournalContents, Key, Record
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.migrate.job import MigrationJob
from holdover.migrate.result import Progress
from holdover.paths.iscsi import InitiatorIdentity, IscsiPath, IscsiSessions, isid_of
from holdover.pki.tls import ClientTls, Credentials, TlsFiles
from holdover.scsi.cdbs.cdb import PersistentReserveIn, Read, Write
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import FullStatus
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import (
    AdditionalSense,
    SenseKey,
    check_condition,
    describe_response,
    is_unit_attention,
)
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


class Fate(Enum):
    """What becomes of a command; where it is not answered the connection is cut."""

    ANSWERED = "answered"
    UNANSWERED = "carried out, and not answered"
    LOST = "not carried out"


Hook = Callable[[str, Command], Awaitable[Fate]]
"""Is told of every command, and of the host that sends it, before it is carried out."""


class Lun:
    """A LUN at which a test can look at commands, hold them up, and lose their answers.

    Attributes:
        most: PERSISTENT RESERVE IN with a longer allocation length is refused, as QEMU's persistent
            reservation manager refuses more than 8192 bytes.
    """

    def __init__(self, device: EmbeddedLun, cut: Callable[[ITNexus], None]) -> None:
        self.device = device
        self.hook: Hook | None = None
        self.most = 0xFFFF
        self._cut = cut

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        if self.hook is not None or command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
            return None
        return self.device.execute_now(nexus, command)

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        if (
            command.opcode == OperationCode.PERSISTENT_RESERVE_IN
            and PersistentReserveIn.decode(command.cdb).allocation_length > self.most
        ):
            return check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
        fate = Fate.ANSWERED if self.hook is None else await self.hook(_name_of(nexus), command)
        if fate is not Fate.LOST:
            response = await self.device.execute(nexus, command)
            if fate is Fate.ANSWERED:
                return response
        self._cut(nexus)
        never: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        return await never

    async def reset(self) -> None:
        await self.device.reset()

    async def nexus_lost(self, nexus: ITNexus) -> None:
        await self.device.nexus_lost(nexus)


def _name_of(nexus: ITNexus) -> str:
    return str(nexus.initiator).split(",")[0].rpartition(":")[2]


class Target(IscsiTarget):
    """A target whose connections can be cut."""

    def __init__(self, iqn: str, luns: dict[int, Lun]) -> None:
        super().__init__(iqn, luns)
        self._open: set[TargetConnection] = set()
        self._cutting: set[asyncio.Task[None]] = set()

    def connection_opened(self, connection: TargetConnection) -> bool:
        opened = super().connection_opened(connection)
        if opened:
            self._open.add(connection)
        return opened

    def connection_ended(self, connection: TargetConnection, reason: str) -> None:
        self._open.discard(connection)
        super().connection_ended(connection, reason)

    def cut(self, nexus: ITNexus) -> None:
        for connection in [each for each in self._open if each.nexus == nexus]:
            task = asyncio.create_task(connection.shut("a test cut the connection"))
            self._cutting.add(task)
            task.add_done_callback(self._cutting.discard)


class DyingJournal:
    """A journal of an agent that dies when it is about to write, or has just written."""

    def __init__(self) -> None:
        self.inner = MemoryJournal()
        self.dead = asyncio.Event()
        self._left = 0
        self._after = False

    def arm(self, number: int, *, after: bool) -> None:
        """Die at the write of that ``number``, from 1, counted from now; 0: live."""
        self.dead.clear()
        self._left, self._after = number, after

    @property
    def failed(self) -> None:
        return None

    def load(self) -> JournalContents:
        return self.inner.load()

    def steps(self, handover_id: str) -> tuple[HandoverRecord, ...]:
        return self.inner.steps(handover_id)

    async def put(self, *records: Record) -> None:
        if self._left == 1 and not self.dead.is_set():
            if self._after:
                await self.inner.put(*records)
            self.dead.set()
        if self.dead.is_set():
            await asyncio.get_running_loop().create_future()
        self._left -= 1
        await self.inner.put(*records)

    async def note(self, *records: Record) -> None:
        await self.put(*records)

    async def forget(self, *keys: Key) -> None:
        await self.inner.forget(*keys)

    async def close(self) -> None:
        """What it has is there at the next start."""


@dataclass
class San:
    """A target whose LUNs can be looked into, two agents, and initiators to them.

    ``apis`` are the addresses at which the agents ask each other; ``clients`` are operators at their Unix
    sockets.
    """

    folder: Path
    luns: list[EmbeddedLun]
    served: list[Lun]
    target: IscsiTarget
    port: int
    configs: dict[str, AgentConfig] = field(default_factory=dict)
    journals: dict[str, DyingJournal] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    apis: dict[str, str] = field(default_factory=dict)
    certified: dict[str, CertifiedHost] = field(default_factory=dict)
    clients: dict[str, AgentClient] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    sessions: IscsiSessions = field(default_factory=IscsiSessions)
    _paths: list[IscsiPath] = field(default_factory=list)
    _names: defaultdict[str, list[IscsiPath]] = field(default_factory=lambda: defaultdict(list))
    _agents: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def start(self, name: str) -> None:
        """Start the agent of a host, with what its journal has."""
        config = self.configs[name]
        ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(config, ready.set_result, self.journals[name]))

        def ended(done: asyncio.Task[None]) -> None:
            if not ready.done():
                ready.set_exception(done.exception() or RuntimeError("the agent ended"))

        task.add_done_callback(ended)
        self._agents[name] = task
        self.hosts[name] = await ready

    async def stop(self, name: str) -> None:
        """End the agent of a host where it stands."""
        task = self._agents.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def hook(self, hook: Hook | None) -> None:
        """Look at the commands to all LUNs."""
        for lun in self.served:
            lun.hook = hook

    async def gates(self) -> dict[str, str]:
        """Of the guest's first device on each host."""
        return {name: (await client.guest(GUEST)).devices[0].gate for name, client in self.clients.items()}

    def initiator(self, name: str, url: str, isid: str = "") -> Initiator:
        identity = InitiatorIdentity(f"iqn.2026-11.org.example:{name}", isid_of(isid or name))
        path = self.sessions.path(parse_iscsi_url(url), identity)
        self._paths.append(path)
        self._names[name].append(path)
        return Initiator(path)

    async def log_out(self, name: str) -> None:
        """End the sessions of the initiator of that name."""
        for path in self._names.pop(name, []):
            await path.close()
            self._paths.remove(path)

    def url(self, lun: int = 0) -> str:
        return f"iscsi://127.0.0.1:{self.port}/{IQN}/{lun}"

    def guest_on(self, host: str, lun: int = 0) -> Initiator:
        return self.initiator("qemu", self.export(host, lun))

    def export(self, host: str, lun: int = 0) -> str:
        """Where the guest's QEMU finds a device, with the secret."""
        url = parse_iscsi_url(f"{self.hosts[host].guests[GUEST].export}/{lun}")
        credentials = self.hosts[host].credentials_of(GUEST)
        assert credentials is not None
        return replace(url, user=credentials.user, password=credentials.secret).secret_url

    def third(self, name: str = "third", lun: int = 0) -> Initiator:
        return self.initiator(name, self.url(lun))

    def nexus_of(self, host: str, lun: int = 0) -> Initiator:
        """The nexus by which the agent of a host, which must not run, reaches the guest's LUN."""
        return self.initiator(host, self.url(lun), f"{GUEST}\0")

    def peer(self, of: str, name: str = "") -> AgentClient:
        """Asks the agent of a host as the agent of ``name``, else of the other host, does; to be closed."""
        other = name or next(each for each in self.certified if each != of)
        host = self.certified[other]
        credentials = Credentials(TlsFiles(host.certificate, host.key, host.ca))
        return AgentClient(self.apis[of], timeout=600, tls=ClientTls(credentials.client, of))

    def orchestrator(self, source: str = "host-a", destination: str = "host-b") -> MigrationJob:
        return MigrationJob(GUEST, self.clients[source], self.clients[destination], self.progress.append)

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
        for name in tuple(self._agents):
            await self.stop(name)
        await self.target.close()
        for device in self.luns:
            await device.close()


@asynccontextmanager
async def san(
    folder: Path,
    *,
    luns: int = 1,
    migrate_pr: Sequence[str] = ("on", "on"),
    hosts: Sequence[str] = ("host-a", "host-b"),
    step: float = 5.0,
    limits: Limits | None = None,
    exports: ExportsConfig | None = None,
    guest: Mapping[str, Any] | None = None,
) -> AsyncGenerator[San, None]:
    """The target and an agent for each of ``hosts``; the guest runs on the first.

    ``guest`` is what is set of the guest beside that. Without LUNs its QEMU
    would come by a helper's socket, and has sent nothing yet.
    """
    devices = [EmbeddedLun.open(LunOptions(folder / f"lun{number}", 1 << 20)) for number in range(luns)]
    numbered: dict[int, Lun] = {}
    target = Target(IQN, numbered)
    served = [Lun(device, target.cut) for device in devices]
    numbered.update(enumerate(served))
    port = await target.start("127.0.0.1", 0)
    set_up = San(folder, devices, served, target, port)
    set_up.certified = certified_hosts(folder, hosts)
    for name, setting in zip(hosts, migrate_pr, strict=True):
        host = set_up.certified[name]
        set_up.configs[name] = AgentConfig(
            name=name,
            initiator=f"iqn.2026-11.org.example:{name}",
            state_dir=str(folder / f"{name}.state"),
            api=host.api_config(),
            peer=host.peers(set_up.certified),
            guest=(
                GuestConfig(
                    name=GUEST,
                    machine_type="pc-q35-10.2",
                    export=f"127.0.0.1:{free_port()}" if luns else None,
                    helper=None if luns else str(folder / f"{name}.helper"),
                    devices=tuple(
                        f"scsi-block,id=disk{number},drive={set_up.url(number)},migrate-pr={setting}"
                        for number in range(luns)
                    ),
                    incoming=name != hosts[0],
                    **(guest or {}),
                ),
            ),
            exports=exports or ExportsConfig(),
            limits=limits or Limits(connect=2, step=step, drain=2),
        )
        set_up.journals[name] = DyingJournal()
        set_up.apis[name] = host.address
        set_up.clients[name] = AgentClient(host.api, timeout=600)
    try:
        for name in hosts:
            await set_up.start(name)
        yield set_up
    finally:
        await set_up.close()
