"""What both sides of a handover share: work on all LUNs at once, and putting states on record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import msgspec
import structlog

from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.records import device_record
from holdover.agent.spans import Spans
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import Tracked
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import Destination, Happened, Source
from holdover.handover.states import Event
from holdover.handover.steps import StepFailed
from holdover.handover.work import Work, steps_of
from holdover.journal.journal import JournalError, JournalLike
from holdover.journal.records import HandoverRecord
from holdover.paths.path import PathError

__all__ = ["HandoverGone", "Workshop"]

log = structlog.get_logger()

_WRITE_AGAIN_SECONDS = 1.0
_DRAINS = frozenset({Work.DRAIN, Work.PROBE, Work.WITHDRAW})


class HandoverGone(Exception):
    """The guest has no device on a LUN of its handover any more."""


class Workshop:
    """The devices of one guest, as one handover works on them."""

    def __init__(self, guest: HostedGuest, journal: JournalLike, spans: Spans) -> None:
        self.guest = guest
        self.spans = spans
        self.problem = ""
        """Why the journal does not take what is to be written; empty: it does."""
        self._journal = journal

    def device(self, designator: str) -> GuestDevice:
        """The device on a LUN.

        Raises:
            HandoverGone: There is none.
        """
        for device in self.guest.devices:
            if str(device.designator) == designator:
                return device
        raise HandoverGone(f"guest {self.guest.name} has no device on LUN {designator} any more")

    async def write(self, machine: Source | Destination, devices: Iterable[GuestDevice] = ()) -> None:
        """Put a handover's state on record, with the states of ``devices``; returns when it is on disk.

        Nothing may happen before it is, so a journal that refuses is asked again until it does not.
        """
        record = HandoverRecord(
            handover=machine.handover,
            guest=machine.guest,
            role="source" if isinstance(machine, Source) else "destination",
            peer=machine.peer,
            state=machine.state.value,
            open=machine.is_open,
            body=msgspec.json.encode(machine),
            at=time.time(),
        )
        with self.spans.span("journal"):
            while True:
                try:
                    await self._journal.put(
                        record, *(device_record(self.guest.name, each) for each in devices)
                    )
                    self.problem = ""
                    return
                except JournalError as error:
                    self.problem = str(error)
                    log.error("a handover waits for the journal", guest=machine.guest, error=str(error))
                    await asyncio.sleep(_WRITE_AGAIN_SECONDS)

    async def work(self, work: Work, luns: tuple[MovingLun, ...]) -> Happened:
        """Do ``work`` on all LUNs at once."""
        if work in _DRAINS:
            problem = await self._drain(luns)
            if problem:
                return Happened(Event.FAILED, problem=problem)
        if work is Work.DRAIN:
            return Happened(Event.DONE, luns)
        with self.spans.span(f"work {work.value}"):
            results = await asyncio.gather(*(self._one(work, lun) for lun in luns), return_exceptions=True)
        problems = []
        done = []
        for lun, result in zip(luns, results, strict=True):
            if isinstance(result, StepFailed | PathError | HandoverGone):
                problems.append(f"{lun.designator}: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                done.append(result)
        if problems:
            return Happened(Event.FAILED, problem="; ".join(problems))
        return Happened(Event.DONE, tuple(done))

    async def _one(self, work: Work, lun: MovingLun) -> MovingLun:
        if not lun.migrate_pr:
            return lun
        device = self.device(lun.designator)
        steps = steps_of(work, lun, stale=device.block.stale)
        return await device.run(self.spans.steps(steps, lun.designator), self.guest.limits.step)

    async def _drain(self, luns: tuple[MovingLun, ...]) -> str:
        limit = self.guest.limits.drain
        with self.spans.span("drain"):
            devices = [self.device(lun.designator) for lun in luns]
            drained = await asyncio.gather(*(device.drain(limit) for device in devices))
        problems = [
            f"{device.name}: {device.in_flight} commands are still in flight after {limit:g} s"
            for device, ended in zip(devices, drained, strict=True)
            if not ended
        ]
        return "; ".join(problems)

    def open(self, gate: Gate) -> None:
        """Move the gate of all devices that are not there yet."""
        self.guest.move_gates(gate)

    def adopt(self, luns: tuple[MovingLun, ...]) -> None:
        """Take over what is known to be true of the LUNs."""
        for lun in luns:
            if lun.migrate_pr:
                self.device(lun.designator).block.adopt(lun.tracked)

    def forget(self, luns: tuple[MovingLun, ...]) -> None:
        """The guest has nothing on this host's nexuses any more."""
        for lun in luns:
            if lun.migrate_pr:
                self.device(lun.designator).block.adopt(Tracked())
