"""One act: the same migration, with or without the reservation moving along; and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from holdover.agent.client import AgentClient, AgentError
from holdover.agent.config import export_iqn
from holdover.agent.orchestrator import Orchestrator
from holdover.agent.outcome import MigrateFailed, Progress
from holdover.demo.messages import Connect, End, Open, Stop
from holdover.demo.processes import Child, DemoFailed, free_port, started
from holdover.demo.watching import Listener, Recording
from holdover.iscsi.url import parse_iscsi_url
from holdover.paths.iscsi import Identity, IscsiSessions, isid_of
from holdover.scsi.opcodes import InServiceAction
from holdover.scsi.reservation_in import FullStatus
from holdover.scsi.reservation_out import in_command
from holdover.scsi.sense import describe_response, is_unit_attention

__all__ = ["HOSTS", "Act", "Stage", "Sums", "holder_of", "orchestrator", "perform", "stage"]

HOSTS = ("host-a", "host-b")
GUEST = "db1"
MACHINE = "pc-q35-7.2"
TARGET = "iqn.2026-11.org.holdover:demo"
_SECONDS_BEFORE = 1.5
_SECONDS_AFTER = 1.5


class Sums(msgspec.Struct, kw_only=True):
    """What came of one act.

    Attributes:
        guest_writes: The guest's writes that were accepted.
        guest_write_errors: Those that were refused.
        intruder_writes_accepted, intruder_writes_refused: The third initiator's.
        holder_before, holder_after: The I_T nexus that READ FULL STATUS names as the holder; null: nobody.
        standstill_ms: From the guest's last command on the source to its first answer on the destination
            (with QEMU: from STOP to RESUME).
        blocks_verified: Blocks read back at the end and found as acknowledged last.
        blocks_damaged: Blocks found otherwise.
    """

    guest_writes: int
    guest_write_errors: int
    intruder_writes_accepted: int
    intruder_writes_refused: int
    holder_before: str | None
    holder_after: str | None
    standstill_ms: float
    blocks_verified: int
    blocks_damaged: int


@dataclass(frozen=True)
class Act:
    """One act that was played."""

    migrate_pr: bool
    sums: Sums
    recording: Recording


@dataclass(frozen=True)
class Stage:
    """The target and both agents, running."""

    lun: str
    apis: tuple[str, str]
    exports: tuple[str, str]
    portals: tuple[str, str]


@asynccontextmanager
async def stage(folder: Path, migrate_pr: bool) -> AsyncGenerator[Stage, None]:
    """Start the target and the agents of both hosts, each a process of its own."""
    target_port, *ports = (free_port() for _ in range(5))
    portals = (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    apis = (f"127.0.0.1:{ports[2]}", f"127.0.0.1:{ports[3]}")
    lun = f"iscsi://127.0.0.1:{target_port}/{TARGET}/0"
    device = f"scsi-block,id=disk0,drive={lun},migrate-pr={'on' if migrate_pr else 'off'}"
    async with AsyncExitStack() as stack:
        serve = ("holdover", "target", "--listen", f"127.0.0.1:{target_port}", "--iqn", TARGET)
        await stack.enter_async_context(
            started("target", *serve, "--lun", "file=disk,size=64M", ready="LUN 0", folder=folder)
        )
        for host, portal, api, incoming in zip(HOSTS, portals, apis, ((), ("--incoming",)), strict=True):
            options = ("--name", host, "--api", api, "--initiator", f"iqn.2026-11.org.holdover:{host}")
            guest = (
                "--guest",
                GUEST,
                "--machine",
                MACHINE,
                "--device",
                device,
                "--export",
                portal,
                *incoming,
            )
            await stack.enter_async_context(
                started(host, "holdover", "agent", *options, *guest, ready=f"guest {GUEST}", folder=folder)
            )
        exports = tuple(f"iscsi://{portal}/{export_iqn(GUEST)}/0" for portal in portals)
        yield Stage(lun, apis, (exports[0], exports[1]), portals)


async def holder_of(lun: str) -> str | None:
    """The initiator port of the reservation holder; None when nobody holds one."""
    path = IscsiSessions().path(
        parse_iscsi_url(lun), Identity("iqn.2026-11.org.holdover:demo-observer", isid_of("demo"))
    )
    try:
        response = await path.execute(in_command(InServiceAction.READ_FULL_STATUS))
        while is_unit_attention(response):
            response = await path.execute(in_command(InServiceAction.READ_FULL_STATUS))
    finally:
        await path.close()
    if not response.good:
        raise DemoFailed(f"READ FULL STATUS: {describe_response(response)}")
    holders = [each.transport_id for each in FullStatus.decode(response.data_in).descriptors if each.holder]
    return str(holders[0]) if holders else None


async def perform(migrate_pr: bool, watch: Callable[[Recording], None]) -> Act:
    """Play one act; ``watch`` is called whenever something was recorded.

    Raises:
        DemoFailed: A process failed.
        MigrateFailed: The handover failed.
    """
    recording = Recording()
    with TemporaryDirectory(prefix="holdover-demo-") as name:
        folder = Path(name)
        async with (
            stage(folder, migrate_pr) as set_up,
            started("workload", "holdover.demo.workload", folder=folder) as workload,
            started("intruder", "holdover.demo.intruder", folder=folder) as intruder,
        ):
            recording.began = time.monotonic()
            sums = await _play(set_up, workload, intruder, recording, watch)
    return Act(migrate_pr, sums, recording)


async def _play(
    set_up: Stage, workload: Child, intruder: Child, recording: Recording, watch: Callable[[Recording], None]
) -> Sums:
    guest, third = (Listener(child, recording, watch) for child in (workload, intruder))
    try:
        workload.order(Connect(set_up.exports[0]))
        await guest.ready()
        intruder.order(Connect(set_up.lun))
        before = await _note_holder(set_up, recording)
        workload.order(Open(set_up.exports[1]))
        await asyncio.sleep(_SECONDS_BEFORE)

        async with orchestrator(set_up, recording, watch) as handover:
            await handover.check()
            await handover.prepare()
            # prepared while the guest writes; only the commit is left for when it stands still
            workload.order(Stop())
            recording.stopped = (await guest.ready()).at - recording.began
            await _commit(handover)
            workload.order(Connect(set_up.exports[1]))
            recording.resumed = (await guest.ready()).at - recording.began
            await handover.finish()
        await _note_holder(set_up, recording)
        await asyncio.sleep(_SECONDS_AFTER)

        # the intruder ends first, so that nothing it gets written can be missed by the verification
        intruder.order(End())
        foreign = await third.report()
        workload.order(End())
        own = await guest.report()
        recording.ended = recording.now
        after = await _note_holder(set_up, recording)
    finally:
        await guest.end()
        await third.end()
    return Sums(
        guest_writes=own.accepted,
        guest_write_errors=own.refused,
        intruder_writes_accepted=foreign.accepted,
        intruder_writes_refused=foreign.refused,
        holder_before=before,
        holder_after=after,
        standstill_ms=(recording.resumed - recording.stopped) * 1000,
        blocks_verified=own.verified,
        blocks_damaged=own.damaged,
    )


async def _commit(handover: Orchestrator) -> None:
    try:
        await handover.commit()
    except AgentError as error:
        await handover.bring_back(error)
        raise MigrateFailed(str(error), handover.stays()) from error


async def _note_holder(set_up: Stage, recording: Recording) -> str | None:
    holder = await holder_of(set_up.lun)
    recording.holders.append((recording.now, holder))
    return holder


@asynccontextmanager
async def orchestrator(
    set_up: Stage, recording: Recording, watch: Callable[[Recording], None]
) -> AsyncGenerator[Orchestrator, None]:
    """What ``holdover migrate`` runs, its progress recorded."""

    def tell(progress: Progress) -> None:
        recording.steps.append((recording.now, progress))
        watch(recording)

    clients = [AgentClient(api) for api in set_up.apis]
    try:
        yield Orchestrator(GUEST, clients[0], clients[1], tell)
    finally:
        for client in clients:
            await client.close()
