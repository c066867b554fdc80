"""Bugs put into an agent by hand. The simulation finds each by the seed in docs/develop/testing.md."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.export_nexuses import ExportNexuses
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover import destination as destination_module
from holdover.agent.handover import incoming as incoming_module
from holdover.agent.handover.driver import HandoverDriver
from holdover.agent.handover.executor import HandoverExecutor
from holdover.agent.handover.registry import Registry
from holdover.agent.handover.source import Send, SourceHandover
from holdover.guest.gate import Gate
from holdover.handover.destination_rules import receive_message
from holdover.handover.effects import Effects, WorkOrder, adopted
from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work import work as work_module
from holdover.handover.lun_work.work import POLICY, Work
from holdover.handover.protocol import Answer, Destination, HandoverEvent, Message, Source
from holdover.journal.records import HandoverRecord, Record
from holdover.lun.shared_reserve import SharedReserve
from holdover.reservations.steps import StepFailed
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import PathError

Mutation = Callable[[pytest.MonkeyPatch], None]


def _record_left_out(patch: pytest.MonkeyPatch) -> None:
    """The destination does not put on record that it has committed."""
    put = HandoverExecutor._put

    async def mutated(self: HandoverExecutor, records: list[Record]) -> None:
        kept = [
            each
            for each in records
            if not (
                isinstance(each, HandoverRecord) and each.role == "destination" and each.state == "committed"
            )
        ]
        await put(self, kept)

    patch.setattr(HandoverExecutor, "_put", mutated)


def _answer_before_record(patch: pytest.MonkeyPatch) -> None:
    """The destination answers while its record is still on its way to the disk."""
    flush = HandoverExecutor.flush
    tasks: set[asyncio.Task[None]] = set()

    async def mutated(self: HandoverExecutor) -> None:
        if not isinstance(self._newest, Destination):
            await flush(self)
            return
        task = asyncio.ensure_future(flush(self))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    patch.setattr(HandoverExecutor, "flush", mutated)


def _gate_opened_early(patch: pytest.MonkeyPatch) -> None:
    """The source lets the guest's commands pass before its reservation has moved back."""
    work = HandoverExecutor.work

    async def mutated(self: HandoverExecutor, ordered: WorkOrder, effects: Effects) -> HandoverEvent:
        if ordered.work is Work.TAKE_BACK:
            self.guest.move_gates(Gate.RUNNING)
        return await work(self, ordered, effects)

    patch.setattr(HandoverExecutor, "work", mutated)


def _lost_wake_up(patch: pytest.MonkeyPatch) -> None:
    """A gate that opens does not wake the commands that wait at it."""

    def mutated(self: GuestDevice, gate: Gate) -> None:
        self.block.gate = gate

    patch.setattr(GuestDevice, "move_gate", mutated)


def _exception_swallowed(patch: pytest.MonkeyPatch) -> None:
    """Work that a LUN does not answer counts as done."""
    one = HandoverExecutor._one

    async def mutated(
        self: HandoverExecutor, work: Work, lun: LunHandover, devices: dict[str, GuestDevice]
    ) -> LunHandover:
        try:
            return await one(self, work, lun, devices)
        except (PathError, StepFailed):
            return lun

    patch.setattr(HandoverExecutor, "_one", mutated)


def _device_of_another_guest(patch: pytest.MonkeyPatch) -> None:
    """Work goes by another guest's device on the same LUN."""
    guests: dict[object, list[HostedGuest]] = {}
    make = HostedGuest.__init__
    by_designator = HandoverExecutor._by_designator

    def recorded(self: HostedGuest, *args: Any) -> None:
        make(self, *args)
        guests.setdefault(asyncio.get_running_loop(), []).append(self)

    async def mutated(self: HandoverExecutor, luns: tuple[LunHandover, ...]) -> dict[str, GuestDevice]:
        found = await by_designator(self, luns)
        for guest in guests[asyncio.get_running_loop()]:
            found.update((str(each.designator), each) for each in guest.devices if each.designator)
        return found

    patch.setattr(HostedGuest, "__init__", recorded)
    patch.setattr(HandoverExecutor, "_by_designator", mutated)


def _closed_handover_reopened(patch: pytest.MonkeyPatch) -> None:
    """A host forgets the handovers that are over, so that a late message begins one anew."""

    def hears(
        destination: Destination | None, message: Message, peer: str
    ) -> tuple[Destination | None, Effects]:
        is_over = destination is not None and not destination.is_open
        return receive_message(None if is_over else destination, message, peer)

    patch.setattr(Registry, "remember", lambda self, machine: None)
    for module in (destination_module, incoming_module):
        patch.setattr(module, "receive_message", hears)


def _late_message(patch: pytest.MonkeyPatch) -> None:
    """The source takes an answer that comes late for the answer to its newest message."""
    make = SourceHandover.__init__

    def mutated(self: SourceHandover, machine: Source, executor: HandoverExecutor, send: Send) -> None:
        under_way: set[asyncio.Future[Answer]] = set()

        async def believe(message: Message) -> Answer:
            under_way.add(asyncio.ensure_future(send(message)))
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            under_way.difference_update(done)
            return replace(done.pop().result(), number=message.number)

        make(self, machine, executor, believe)

    patch.setattr(SourceHandover, "__init__", mutated)


def _timer_not_cancelled(patch: pytest.MonkeyPatch) -> None:
    """A pause before a retry goes on when another state is entered, and what it tries counts there."""
    tasks: set[asyncio.Task[HandoverEvent]] = set()

    async def mutated(self: HandoverDriver[Any]) -> None:
        old, self._activity = self._activity, None
        if old is not None:
            tasks.add(old)
            old.add_done_callback(lambda task: self._agenda.end(task.result()))
            old.add_done_callback(tasks.discard)
        self._agenda.drop_activity()

    patch.setattr(HandoverDriver, "_end_activity", mutated)


def _old_picture(patch: pytest.MonkeyPatch) -> None:
    """Where a gate opens, the devices forget what they have seen since the handover noted what it knows."""
    record = HandoverExecutor.record

    def mutated(self: HandoverExecutor, machine: Source | Destination, effects: Effects) -> None:
        before = self._newest
        if effects.gate is Gate.RUNNING and before is not None and not effects.devices:
            effects = replace(effects, devices=adopted(before.luns))
        record(self, machine, effects)

    patch.setattr(HandoverExecutor, "record", mutated)


def _old_aptpl(patch: pytest.MonkeyPatch) -> None:
    """As it was: a host that rolls back or finishes repeats the APTPL of long ago."""
    policies = {work: replace(policy, late=False) for work, policy in POLICY.items()}
    patch.setattr(work_module, "POLICY", policies)


def _reserve_shuts_nobody_out(patch: pytest.MonkeyPatch) -> None:
    """A RESERVE of one session at an export keeps no other session out."""
    patch.setattr(SharedReserve, "answer", lambda self, nexus, command: None)


def _end_of_a_session_frees_nothing(patch: pytest.MonkeyPatch) -> None:
    """What a session had reserved stays reserved when the session has ended."""

    async def mutated(self: ExportNexuses, nexus: ITNexus) -> None:
        """Do nothing."""

    patch.setattr(ExportNexuses, "lose", mutated)


def _any_secret_is_taken(patch: pytest.MonkeyPatch) -> None:
    """An agent takes the secret of an export as it finds it, whoever else can read it."""
    patch.setattr(ChapSecrets, "_read", lambda self, file: file.read_text())


MUTATIONS: dict[str, Mutation] = {
    "a record left out": _record_left_out,
    "an answer before its record": _answer_before_record,
    "a gate opened early": _gate_opened_early,
    "a lost wake-up": _lost_wake_up,
    "an exception swallowed": _exception_swallowed,
    "a device of another guest touched": _device_of_another_guest,
    "a closed handover reopened": _closed_handover_reopened,
    "a late message believed": _late_message,
    "a timer not cancelled": _timer_not_cancelled,
    "adoption of an old picture": _old_picture,
    "an APTPL of long ago": _old_aptpl,
    "a RESERVE that shuts nobody out": _reserve_shuts_nobody_out,
    "a session's end that frees nothing": _end_of_a_session_frees_nothing,
    "a secret that others know": _any_secret_is_taken,
}
"""What each bug is called, and what puts it in. The simulation found the APTPL of long ago by itself."""
