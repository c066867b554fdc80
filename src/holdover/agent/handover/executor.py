"""What both sides of a handover share: it works on all LUNs at once, and puts states on record.

`holdover.handover.effects` says which effects must wait until the records are on disk. States wait until the
next of these, and then share one transaction of the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import structlog

from holdover.agent.guests.begun_steps import run_at_once
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.guests.records import device_record
from holdover.agent.handover.kill_hook import KillHook
from holdover.agent.handover.phases import Phases
from holdover.agent.handover.spans import Spans
from holdover.guest.gate import Gate
from holdover.handover.effects import DeviceNews, EffectKind, Effects, WorkOrder
from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.work import POLICY, Work, as_the_device_knows, steps_of
from holdover.handover.protocol import Destination, DeviceView, HandoverEvent, Source
from holdover.handover.states import Event
from holdover.history.entry import CAUSE, Cause
from holdover.history.history import NO_HISTORY, History
from holdover.journal.journal import JournalError, JournalLike
from holdover.journal.records import HandoverRecord, Record
from holdover.reservations.steps import StepFailed, Steps
from holdover.scsi.path import PathError

log = structlog.get_logger()

_WRITE_AGAIN_SECONDS = 1.0
_NEVER = -1


class _Gone(Exception):
    """The guest has no device on a LUN of its handover."""


def record_of(state_machine: Source | Destination, at: float) -> HandoverRecord:
    """The record of a handover for the journal; ``at`` is its time, in seconds since the epoch."""
    return HandoverRecord(
        handover_id=state_machine.handover_id,
        guest=state_machine.guest,
        role="source" if isinstance(state_machine, Source) else "destination",
        peer=state_machine.peer,
        state=state_machine.state.value,
        open=state_machine.is_open,
        body=msgspec.json.encode(state_machine),
        at=at,
    )


class HandoverExecutor:
    """The devices of one guest, as one handover works on them.

    Attributes:
        problem: Why the journal refuses to write; empty where it does not.
        on_problem: The function to call when the journal has refused to write.
        written: The handover as it is on record; None where this process has put nothing on record.
    """

    def __init__(
        self,
        guest: HostedGuest,
        journal: JournalLike,
        spans: Spans,
        phases: Phases,
        kill: KillHook,
        clock: Callable[[], float],
        history: History = NO_HISTORY,
    ) -> None:
        self.guest = guest
        self.spans = spans
        self.phases = phases
        self.problem = ""
        self.on_problem: Callable[[], None] = lambda: None
        self.written: Source | Destination | None = None
        self._journal = journal
        self._kill = kill
        self._clock = clock
        self._history = history
        self._waiting: list[tuple[Source | Destination, float]] = []
        self._flushing = asyncio.Lock()
        self._newest: Source | Destination | None = None
        self._devices: dict[GuestDevice, None] = {}  # in the order in which they were noted
        self._as_of: dict[GuestDevice, int] = {}
        """Each device's staleness epoch when a work last began to ask its LUN, if one has; that work has not
        seen what came after."""

    # -- the journal --------------------------------------------------------------------------------

    def recall(self, state_machine: Source | Destination) -> None:
        """Take ``machine`` as the state that was on record when the agent started."""
        self.written = self._newest = state_machine

    def record(self, state_machine: Source | Destination, effects: Effects) -> None:
        """Note the handover's state, and tell the guest's devices what the effects have for them.

        `flush` puts both on record.
        """
        is_new = effects.record and state_machine != self._newest
        at = self._clock() if is_new else 0.0  # may fail: then nothing is noted, and nothing is told
        # An open handover's record has the gates. What a device has put on record meanwhile has another one.
        ends = is_new and not state_machine.is_open
        devices = self._tell(effects.devices) if effects.devices or ends else []
        if is_new:
            self._waiting.append((state_machine, at))
            self._newest = state_machine
        self._devices.update(dict.fromkeys(devices))

    async def flush_for(self, part: EffectKind, effects: Effects) -> None:
        """Put everything that was noted on record, if ``part`` of the effects must wait for that."""
        if part in effects.durable_first:
            await self.flush()

    async def flush(self) -> None:
        """Put everything that was noted on record; return when it is on disk.

        Nothing may happen before the record is on disk. If the journal refuses, this tries again until it
        accepts.
        """
        async with self._flushing:
            if self._newest == self.written:
                self._waiting.clear()
            if not self._waiting and not self._devices:
                return
            newest = self._newest
            gate = None if newest is None else newest.gate
            records: list[Record] = [record_of(state_machine, at) for state_machine, at in self._waiting]
            for device in self._devices:
                # What a device puts on record by itself meanwhile comes after this, and must not undo it.
                device.coming_gate = gate
            records += [device_record(self.guest.name, each) for each in self._devices]
            states = [state_machine.state.value for state_machine, _ in self._waiting]
            self._waiting, self._devices = [], {}
            self._kill.before(states)
            with self.spans.span("journal"):
                await self._put(records)
            self._kill.after(states)
            self.written = newest

    async def _put(self, records: list[Record]) -> None:
        while True:
            try:
                await self._journal.put(*records)
            except Exception as error:
                # Whatever it is: what was noted is not on record yet, and is kept nowhere else.
                known = isinstance(error, JournalError)
                self.problem = str(error) if known else f"{type(error).__name__}: {error}"
                log.error(
                    "A handover waits, because the journal takes no records.",
                    guest=self.guest.name,
                    reason=self.problem,
                )
                self.on_problem()
                await asyncio.sleep(_WRITE_AGAIN_SECONDS)
            else:
                self.problem = ""
                return

    # -- the gate -----------------------------------------------------------------------------------

    async def open(self, effects: Effects) -> None:
        """Set the gate of each device that has another gate."""
        gate = effects.gate
        if gate is None:
            return
        await self.flush_for(EffectKind.GATE, effects)
        moved = [each for each in self.guest.devices if each.block.gate is not gate]
        self.guest.move_gates(gate)
        for device in moved:
            if gate is Gate.RUNNING and device.block.stale and device.block.migrate_pr:
                device.read_again()

    # -- the LUNs -----------------------------------------------------------------------------------

    def work_at_once(self, ordered: WorkOrder, effects: Effects) -> HandoverEvent | None:
        """Do work that has nothing to wait for: no command, no record, no pause, no command of the guest that
        is in flight. None if there is one of these; then nothing was done."""
        if ordered.result is None or effects.again or EffectKind.WORK in effects.durable_first:
            return None
        if ordered.policy.drains:
            if any(device.in_flight for device in self.guest.devices):
                return None
            with self.spans.span("drain"):
                pass  # it took no time
        try:
            with self.spans.span(f"work {ordered.work.value}"):
                return HandoverEvent(Event.DONE, ordered.result, devices=self.views())
        except Exception as error:
            return self._failed(ordered.work, error)

    async def work(self, ordered: WorkOrder, effects: Effects) -> HandoverEvent:
        """Do work on all LUNs at once."""
        CAUSE.set(self._cause())
        try:
            problem = await self._drain() if ordered.policy.drains else ""
            if problem:
                return HandoverEvent(Event.FAILED, problem=problem)
            with self.spans.span(f"work {ordered.work.value}"):
                await self.flush_for(EffectKind.WORK, effects)
                return await self._work(ordered)
        except Exception as error:
            return self._failed(ordered.work, error)

    def _failed(self, work: Work, error: Exception) -> HandoverEvent:
        log.error("The work of a handover has failed unexpectedly.", guest=self.guest.name, exc_info=error)
        return HandoverEvent(Event.FAILED, problem=f"{work.value}: {type(error).__name__}: {error}")

    def _cause(self) -> Cause:
        """Who is behind what this handover does on the LUNs."""
        state_machine = self._newest
        if state_machine is None:
            return Cause("agent")
        by = (
            f"host {state_machine.peer}"
            if isinstance(state_machine, Destination)
            else self._history.asker(state_machine.guest)
        )
        return Cause(by, state_machine.handover_id)

    async def _work(self, ordered: WorkOrder) -> HandoverEvent:
        if ordered.result is not None:
            return HandoverEvent(Event.DONE, ordered.result, devices=self.views())
        luns = ordered.luns
        devices = await self._by_designator(luns)
        results = await self._on_each(ordered.work, luns, devices)
        problems = []
        known = []
        for lun, result in zip(luns, results, strict=True):
            if isinstance(result, LunHandover):
                known.append(result)
            elif isinstance(result, StepFailed | PathError | _Gone):
                problems.append(f"{lun.designator}: {result}")
            else:
                raise result
        if problems:
            return HandoverEvent(Event.FAILED, problem="; ".join(problems))
        return HandoverEvent(Event.DONE, tuple(known), devices=self.views())

    async def _on_each(
        self, work: Work, luns: tuple[LunHandover, ...], devices: dict[str, GuestDevice]
    ) -> Sequence[LunHandover | BaseException]:
        if not POLICY[work].is_short or not all(lun.designator in devices for lun in luns):
            some = (self._one(work, lun, devices) for lun in luns)
            return await asyncio.gather(*some, return_exceptions=True)
        jobs = [(devices[lun.designator], partial(self._steps, work, lun, devices)) for lun in luns]
        return await run_at_once(jobs, self.guest.limits.step)

    async def _one(self, work: Work, lun: LunHandover, devices: dict[str, GuestDevice]) -> LunHandover:
        if not lun.migrate_pr:
            return lun
        device = devices.get(lun.designator)
        if device is None:
            raise _Gone(f"guest {self.guest.name} has no device on this LUN")
        limit = self.guest.limits.step
        if POLICY[work].finds_out:
            steps = partial(self._steps, work, lun, devices)
            return await device.ascertain(steps, limit, lambda known: known.tracked)
        return await device.run(self._steps(work, lun, devices), limit)

    def _steps(self, work: Work, lun: LunHandover, devices: dict[str, GuestDevice]) -> Steps[LunHandover]:
        device = devices[lun.designator]
        block = device.block

        def in_turn() -> Steps[LunHandover]:
            # The guest may have changed something since the handover noted it. The device queue runs these
            # steps after the guest's command, so read the tracked state here.
            now = as_the_device_knows(work, lun, block.tracked, block.candidates)
            return (yield from steps_of(work, now, stale=block.stale, candidates=block.candidates))

        def asks() -> None:
            self._as_of[device] = block.staleness_epoch

        return self.spans.steps(in_turn(), lun.designator, asks)

    async def _by_designator(self, luns: tuple[LunHandover, ...]) -> dict[str, GuestDevice]:
        """The guest's devices by designator.

        If the device of one of ``luns`` is not known, first ask every device that has not told its
        designator.
        """
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

    def _seen_of(self, device: GuestDevice) -> int | None:
        """The staleness epoch up to which a device's LUN was asked; None if nothing is in doubt.

        Where the guest is not registered, the work of a handover may ask nothing.
        """
        if device in self._as_of:
            return self._as_of[device]
        return _NEVER if device.block.stale else None

    def views(self) -> tuple[DeviceView, ...]:
        """The reports of the guest's devices."""
        return tuple(
            DeviceView(
                str(device.designator),
                device.tracked,
                device.block.stale,
                device.block.migrate_pr,
                device.block.pending_attentions,
                device.block.candidates,
            )
            for device in self.guest.devices
        )

    def _tell(self, told: tuple[DeviceNews, ...]) -> list[GuestDevice]:
        """Tell the guest's devices the news of the handover; return the devices to put on record."""
        news = {each.designator: each for each in told}
        # Devices without news go on record too, because their gates may have changed.
        devices = [each for each in self.guest.devices if each.lun_of_record]
        for device in devices:
            learns = news.get(device.lun_of_record)
            if learns is None:
                continue
            if learns.left:
                device.block.forget_attentions()
            if learns.tracked is not None:
                device.block.adopt(learns.tracked, None if learns.left else self._seen_of(device))
            device.block.drop_attentions(learns.drop)
            device.block.pass_on(learns.pass_on)
        return devices
