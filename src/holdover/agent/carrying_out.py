"""What both sides of a handover share: work on all LUNs at once, and putting states on record.

States go on record before anything that follows from them can be seen from outside. Until then they wait:
transitions that follow one another without a command that changes something, a message, an answer or a gate
that lets more pass, share one transaction of the journal, since a crash between them would look like one
before them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import msgspec
import structlog

from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.kill_hook import KillHook
from holdover.agent.records import device_record
from holdover.agent.spans import Spans
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import Tracked
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import Destination, Happened, Source
from holdover.handover.states import DESTINATION_DOES, Event
from holdover.handover.steps import StepFailed, Steps
from holdover.handover.work import Work, steps_of
from holdover.journal.journal import JournalError, JournalLike
from holdover.journal.records import HandoverRecord, Record
from holdover.paths.path import PathError

__all__ = ["Workshop", "record_of"]

log = structlog.get_logger()

_WRITE_AGAIN_SECONDS = 1.0
_DRAINS = frozenset({Work.DRAIN, Work.PROBE, Work.WITHDRAW, Work.ISOLATE})
_ASKS = frozenset({Work.CHECK, Work.CONFIRM})
"""Work that changes nothing, done as often as one likes."""
_OF_THE_GUEST = frozenset(
    {Work.ISOLATE, *(does.work for does in DESTINATION_DOES.values() if does.gate is Gate.RUNNING)}
)
"""Work that begins when the guest runs, or has just run: what it has is what its device knows when that has
its turn, and not what was noted."""


class _Gone(Exception):
    """The guest has no device on a LUN of its handover."""


def record_of(machine: Source | Destination, at: float) -> HandoverRecord:
    """What of a handover is put on record; ``at``: seconds since the epoch."""
    return HandoverRecord(
        handover=machine.handover,
        guest=machine.guest,
        role="source" if isinstance(machine, Source) else "destination",
        peer=machine.peer,
        state=machine.state.value,
        open=machine.is_open,
        body=msgspec.json.encode(machine),
        at=at,
    )


class Workshop:
    """The devices of one guest, as one handover works on them.

    Attributes:
        problem: Why the journal does not take what is to be written; empty: it does.
        on_problem: Called when it has refused.
        written: What is on record of the handover; None: nothing since this process began.
    """

    def __init__(self, guest: HostedGuest, journal: JournalLike, spans: Spans, kill: KillHook) -> None:
        self.guest = guest
        self.spans = spans
        self.problem = ""
        self.on_problem: Callable[[], None] = lambda: None
        self.written: Source | Destination | None = None
        self._journal = journal
        self._kill = kill
        self._waiting: list[tuple[Source | Destination, float]] = []
        self._flushing = asyncio.Lock()
        self._newest: Source | Destination | None = None
        self._devices: set[GuestDevice] = set()
        self._as_of: dict[GuestDevice, int] = {}
        """What doubts each device had when the last work began: what has come up since, it has not seen."""

    # -- the journal --------------------------------------------------------------------------------

    def recall(self, machine: Source | Destination) -> None:
        """What is on record from before the agent began."""
        self.written = self._newest = machine

    def note(self, machine: Source | Destination, devices: Iterable[GuestDevice] = ()) -> None:
        """The handover stands so now, and ``devices`` have learned something: to be on record before
        anything is seen of it."""
        if machine != self._newest:
            self._waiting.append((machine, time.time()))
            self._newest = machine
        self._devices.update(devices)

    def forget_notes(self) -> None:
        """What was noted since the last `flush` has not been."""
        self._waiting.clear()
        self._newest = self.written

    async def flush(self) -> None:
        """Put on record what was noted; returns when it is on disk.

        Nothing may happen before it is, so a journal that refuses is asked again until it does not.
        """
        async with self._flushing:
            if self._newest == self.written:
                self._waiting.clear()
            if not self._waiting and not self._devices:
                return
            newest = self._newest
            gate = None if newest is None else newest.gate
            records: list[Record] = [record_of(machine, at) for machine, at in self._waiting]
            records += [device_record(self.guest.name, each, gate) for each in self._devices]
            states = [machine.state.value for machine, _ in self._waiting]
            self._waiting, self._devices = [], set()
            self._kill.before(states)
            with self.spans.span("journal"):
                await self._put(records)
            self._kill.after(states)
            self.written = newest

    async def _put(self, records: list[Record]) -> None:
        while True:
            try:
                await self._journal.put(*records)
            except JournalError as error:
                self.problem = str(error)
                log.error("a handover waits for the journal", guest=self.guest.name, error=str(error))
                self.on_problem()
                await asyncio.sleep(_WRITE_AGAIN_SECONDS)
            else:
                self.problem = ""
                return

    # -- the gate -----------------------------------------------------------------------------------

    async def open(self, gate: Gate) -> None:
        """Move the gate of all devices that are not there yet."""
        moving = [each for each in self.guest.devices if each.block.gate is not gate]
        if not moving:
            return
        holds = gate in (Gate.LEAVING, Gate.INCOMING)
        if not holds or any(each.block.gate is not Gate.RUNNING for each in moving):
            await self.flush()
        self.guest.move_gates(gate)
        for device in moving:
            if gate is Gate.RUNNING and device.block.stale and device.block.migrate_pr:
                device.read_again()

    # -- the LUNs -----------------------------------------------------------------------------------

    async def work(self, work: Work, luns: tuple[MovingLun, ...]) -> Happened:
        """Do ``work`` on all LUNs at once."""
        try:
            problem = await self._drain() if work in _DRAINS else ""
            if work is Work.DRAIN:
                problem = problem or self._other_devices(luns)
            if problem or work is Work.DRAIN:
                return Happened(Event.FAILED if problem else Event.DONE, luns, problem)
            self._as_of = {device: device.block.doubts for device in self.guest.devices}
            with self.spans.span(f"work {work.value}"):
                return await self._work(work, luns)
        except Exception as error:
            log.error("work of a handover has failed", guest=self.guest.name, exc_info=error)
            return Happened(Event.FAILED, problem=f"{work.value}: {type(error).__name__}: {error}")

    async def _work(self, work: Work, luns: tuple[MovingLun, ...]) -> Happened:
        if work not in _ASKS:
            done = [None if work in _OF_THE_GUEST else _without_commands(work, lun) for lun in luns]
            certain = tuple(lun for lun in done if lun is not None)
            if len(certain) == len(luns):
                return Happened(Event.DONE, certain)
            await self.flush()
        devices = await self._by_designator(luns)
        results = await asyncio.gather(
            *(self._one(work, lun, devices) for lun in luns), return_exceptions=True
        )
        problems = []
        known = []
        for lun, result in zip(luns, results, strict=True):
            if isinstance(result, StepFailed | PathError | _Gone):
                problems.append(f"{lun.designator}: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                known.append(result)
        if problems:
            return Happened(Event.FAILED, problem="; ".join(problems))
        return Happened(Event.DONE, tuple(known))

    async def _one(self, work: Work, lun: MovingLun, devices: dict[str, GuestDevice]) -> MovingLun:
        if not lun.migrate_pr:
            return lun
        device = devices.get(lun.designator)
        if device is None:
            raise _Gone(f"guest {self.guest.name} has no device on this LUN")
        limit = self.guest.limits.step
        if work in _ASKS:
            # what the guest has changed since it was noted counts; it takes turns with these steps
            def steps() -> Steps[MovingLun]:
                now = replace(lun, tracked=device.tracked)
                return self.spans.steps(steps_of(work, now, stale=device.block.stale), lun.designator)

            return await device.ascertain(steps, limit, lambda known: known.tracked)

        def in_turn() -> Steps[MovingLun]:
            return (yield from steps_of(work, _as_now(lun, device.tracked) if work in _OF_THE_GUEST else lun))

        return await device.run(self.spans.steps(in_turn(), lun.designator), limit)

    async def _by_designator(self, luns: tuple[MovingLun, ...]) -> dict[str, GuestDevice]:
        """The guest's devices; one that may be of ``luns`` and has not said which it is, is asked."""
        devices = self.guest.devices
        unknown = [each for each in devices if each.designator is None]
        if unknown and not {lun.designator for lun in luns} <= {str(each.designator) for each in devices}:
            limit = self.guest.limits.step
            asked = (each.learn_designator(limit) for each in unknown)
            for said in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(said, BaseException) and not isinstance(said, StepFailed | PathError):
                    raise said
        return {str(each.designator): each for each in devices}

    async def _drain(self) -> str:
        limit = self.guest.limits.drain
        devices = tuple(self.guest.devices)
        with self.spans.span("drain"):
            drained = await asyncio.gather(*(device.drain(limit) for device in devices))
        return "; ".join(
            f"{device.name}: {device.in_flight} commands are still in flight after {limit:g} s"
            for device, ended in zip(devices, drained, strict=True)
            if not ended
        )

    def _other_devices(self, luns: tuple[MovingLun, ...]) -> str:
        """How the guest's devices differ from those that it was prepared with; empty: not at all."""
        prepared = {lun.designator for lun in luns}
        now = {str(each.designator) for each in self.guest.devices}
        told = [f"{each}: the guest has got this LUN" for each in sorted(now - prepared)]
        told += [f"{each}: the guest has lost this LUN" for each in sorted(prepared - now)]
        return f"{'; '.join(told)} since it was prepared; roll back and prepare anew" if told else ""

    def unsure(self, luns: tuple[MovingLun, ...]) -> tuple[MovingLun, ...]:
        """LUNs of which the devices know something else than the handover does, or nothing certain."""
        devices = {str(each.designator): each for each in self.guest.devices}
        found = []
        for lun in luns:
            device = devices.get(lun.designator)
            if (
                device is not None
                and lun.migrate_pr
                and (device.block.stale or device.tracked != lun.tracked)
            ):
                found.append(MovingLun(lun.designator, tracked=device.tracked))
        return tuple(found)

    def adopt(self, luns: tuple[MovingLun, ...]) -> list[GuestDevice]:
        """The devices take over what the handover knows as of its last work; those whose state is to go on
        record."""
        return self._tell({lun.designator: lun.tracked for lun in luns if lun.migrate_pr}, self._as_of)

    def forget(self, luns: tuple[MovingLun, ...]) -> list[GuestDevice]:
        """The guest has nothing on this host's nexuses any more; the devices as with `adopt`."""
        return self._tell({lun.designator: Tracked() for lun in luns if lun.migrate_pr}, {})

    def _tell(self, known: dict[str, Tracked], as_of: dict[GuestDevice, int]) -> list[GuestDevice]:
        # those whose reservations stay go on record too, for their gates
        devices = [each for each in self.guest.devices if each.designator is not None]
        for device in devices:
            tracked = known.get(str(device.designator))
            if tracked is not None:
                device.block.adopt(tracked, as_of.get(device))
        return devices


def _as_now(lun: MovingLun, tracked: Tracked) -> MovingLun:
    """The LUN with what the guest has now; where it has asked for another APTPL, that is the LUN's since."""
    is_same = tracked.aptpl == lun.tracked.aptpl
    return replace(lun, tracked=tracked, aptpl=lun.aptpl if is_same else tracked.aptpl)


def _without_commands(work: Work, lun: MovingLun) -> MovingLun | None:
    """What comes of work that has nothing to say to the LUN; None where it has."""
    steps = steps_of(work, lun)
    try:
        next(steps)
    except StopIteration as done:
        known: MovingLun = done.value
        return known
    except StepFailed:
        return None
    steps.close()
    return None
