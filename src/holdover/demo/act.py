"""One act of the demonstration, and its result: a migration, with or without the reservation moving along."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.api.client import AgentClient, AgentError
from holdover.config.agent_file import export_iqn
from holdover.demo.hosts import certified_hosts
from holdover.demo.messages import Connect, End, OpenDisk, Stop
from holdover.demo.processes import Child, DemoFailed, free_port, started
from holdover.demo.watching import ProgressListener, Recording
from holdover.iscsi.url import parse_iscsi_url
from holdover.migrate.job import MigrationJob
from holdover.migrate.result import MigrateFailed, Progress
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.reservations.driver import run_async
from holdover.reservations.questions import read_full_status
from holdover.reservations.steps import StepFailed

HOSTS = ("host-a", "host-b")
GUEST = "db1"
MACHINE = "pc-q35-7.2"
TARGET = "iqn.2026-11.org.holdover:demo"
_SECONDS_BEFORE = 1.5
_SECONDS_AFTER = 1.5


class Sums(msgspec.Struct, kw_only=True):
    """The result of one act.

    Attributes:
        guest_writes: How many of the guest's writes were accepted.
        guest_write_errors: How many of the guest's writes were refused.
        intruder_writes_accepted, intruder_writes_refused: The same of the third initiator's writes.
        holder_before, holder_after: The I_T nexus that READ FULL STATUS names as the holder; null: nobody.
        standstill_ms: The time from the guest's last command on the source to its first answer on the
            destination (with QEMU: from STOP to RESUME).
        blocks_verified: How many blocks, read at the end, had the content that was acknowledged last.
        blocks_damaged: How many blocks had another content.
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
class DemoStage:
    """The target and both agents, while they run.

    Attributes:
        lun: The URL of the LUN.
        apis: The addresses at which operators ask the agents.
        exports: The URLs of the guest's disk at both agents, with their secrets.
        portals: HOST:PORT of both exports.
        secrets: The files with the secrets.
    """

    lun: str
    apis: tuple[str, str]
    exports: tuple[str, str]
    portals: tuple[str, str]
    secrets: tuple[Path, Path]


@asynccontextmanager
async def stage(folder: Path, migrate_pr: bool) -> AsyncGenerator[DemoStage, None]:
    """Start the target and the agents of both hosts, each a process of its own."""
    target_port, *ports = (free_port() for _ in range(3))
    portals = (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    hosts = certified_hosts(folder, HOSTS)
    lun = f"iscsi://127.0.0.1:{target_port}/{TARGET}/0"
    device = f"scsi-block,id=disk0,drive={lun},migrate-pr={'on' if migrate_pr else 'off'}"
    async with AsyncExitStack() as stack:
        serve = ("holdover", "target", "--listen", f"127.0.0.1:{target_port}", "--iqn", TARGET)
        await stack.enter_async_context(
            started("target", *serve, "--lun", "file=disk,size=64M", ready="LUN 0", folder=folder)
        )
        for host, portal, incoming in zip(HOSTS, portals, ((), ("--incoming",)), strict=True):
            state = ("--state-dir", str(_state_of(folder, host)))
            options = ("--name", host, "--initiator", f"iqn.2026-11.org.holdover:{host}", *state)
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
                started(
                    host,
                    "holdover",
                    "agent",
                    *options,
                    *hosts[host].options(hosts),
                    *guest,
                    ready=f"guest {GUEST}",
                    folder=folder,
                )
            )
        secrets = [ChapSecrets(_state_of(folder, host)).file(GUEST) for host in HOSTS]
        exports = [
            f"iscsi://{GUEST}%{file.read_text(encoding='ascii')}@{portal}/{export_iqn(GUEST)}/0"
            for portal, file in zip(portals, secrets, strict=True)
        ]
        apis = tuple(hosts[host].api for host in HOSTS)
        yield DemoStage(lun, (apis[0], apis[1]), (exports[0], exports[1]), portals, (secrets[0], secrets[1]))


def _state_of(folder: Path, host: str) -> Path:
    return folder / f"{host}.state"


async def holder_of(lun: str) -> str | None:
    """The initiator port of the reservation holder; None if nobody holds a reservation."""
    path = IscsiSessions().path(
        parse_iscsi_url(lun), InitiatorIdentity("iqn.2026-11.org.holdover:demo-observer", isid_of("demo"))
    )
    try:
        status = await run_async(read_full_status(), path.execute)
    except StepFailed as error:
        raise DemoFailed(str(error)) from error
    finally:
        await path.close()
    if status is None:
        raise DemoFailed("READ FULL STATUS: the LUN does not have it")
    holders = [each.transport_id for each in status.descriptors if each.holder]
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
    set_up: DemoStage,
    workload: Child,
    intruder: Child,
    recording: Recording,
    watch: Callable[[Recording], None],
) -> Sums:
    guest, third = (ProgressListener(child, recording, watch) for child in (workload, intruder))
    try:
        workload.order(Connect(set_up.exports[0]))
        await guest.ready()
        intruder.order(Connect(set_up.lun))
        before = await _note_holder(set_up, recording)
        workload.order(OpenDisk(set_up.exports[1]))
        await asyncio.sleep(_SECONDS_BEFORE)

        async with orchestrator(set_up, recording, watch) as handover:
            await handover.check()
            await handover.prepare()
            # Prepare runs while the guest writes; only commit is left for the time of the standstill.
            workload.order(Stop())
            recording.stopped = (await guest.ready()).at - recording.began
            await _commit(handover)
            workload.order(Connect(set_up.exports[1]))
            recording.resumed = (await guest.ready()).at - recording.began
            await handover.finish()
        await _note_holder(set_up, recording)
        await asyncio.sleep(_SECONDS_AFTER)

        # The intruder ends first, so that the verification sees everything that the intruder gets written.
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


async def _commit(handover: MigrationJob) -> None:
    try:
        await handover.commit()
    except AgentError as error:
        await handover.bring_back(error)
        raise MigrateFailed(str(error), handover.stays()) from error


async def _note_holder(set_up: DemoStage, recording: Recording) -> str | None:
    holder = await holder_of(set_up.lun)
    recording.holders.append((recording.now, holder))
    return holder


@asynccontextmanager
async def orchestrator(
    set_up: DemoStage, recording: Recording, watch: Callable[[Recording], None]
) -> AsyncGenerator[MigrationJob, None]:
    """The job that ``holdover migrate`` runs, with its progress recorded."""

    def tell(progress: Progress) -> None:
        recording.steps.append((recording.now, progress))
        watch(recording)

    clients = [AgentClient(api) for api in set_up.apis]
    try:
        yield MigrationJob(GUEST, clients[0], clients[1], tell)
    finally:
        for client in clients:
            await client.close()
