"""A guest on this host and its part in a handover, step by step.

Each step works on all devices of the guest at once and may be repeated. A step that fails leaves the
gate as it is: what opens it again is RESUME on the giver, or PREEMPT on the taker.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import structlog

from holdover.agent.api import DeviceState, GuestState, Moved, SessionState, Step
from holdover.agent.config import Limits
from holdover.agent.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.guest.machine import MachineType
from holdover.guest.scsi_block import Tracked
from holdover.handover.steps import (
    StepFailed,
    confirm,
    give,
    preempt,
    register,
    settle,
    take_back_registration,
    withdraw,
)
from holdover.iscsi.target import IscsiTarget
from holdover.paths.path import PathError
from holdover.scsi.opcodes import ReservationType

__all__ = ["HostedGuest", "StepProblem"]

log = structlog.get_logger()

_LAST_STEPS = frozenset({Step.PREEMPT, Step.FINISH, Step.RETURN, Step.RESUME})


class StepProblem(Exception):
    """A step of a handover could not be done on this host.

    Attributes:
        step: The step.
        lun: The LUN's designator or drive; empty when it is no single LUN's matter.
    """

    def __init__(self, step: Step, problem: str, lun: str = "") -> None:
        super().__init__(f"{lun}: {problem}" if lun else problem)
        self.step = step
        self.lun = lun


class HostedGuest:
    """One guest: devices in the order of their LUN numbers, and the target that exports them, if one does."""

    def __init__(
        self,
        name: str,
        host: str,
        machine: MachineType,
        devices: list[GuestDevice],
        target: IscsiTarget | None,
        limits: Limits,
    ) -> None:
        self.name = name
        self.export = ""
        self.devices = devices
        self.target = target
        self._host = host
        self._machine = machine
        self.limits = limits
        self._one_step = asyncio.Lock()
        self._handover: str | None = None
        """The handover under way; None when none is."""
        self._recorded = ""
        self._record: dict[Step, tuple[Moved, ...]] = {}
        """What the steps of the handover `_recorded` answered: a step that comes again is not done again."""
        self._confirmed: dict[str, Tracked] = {}
        self._spare_keys: dict[str, int] = {}
        self._steps: dict[Step, Callable[[dict[str, Moved]], Awaitable[list[Moved]]]] = {
            Step.LEAVE: self._leave,
            Step.REGISTER: self._register,
            Step.GIVE: self._give,
            Step.PREEMPT: self._preempt,
            Step.FINISH: self._finish,
            Step.CLOSE: self._close,
            Step.RECLAIM: self._reclaim,
            Step.RETURN: self._return,
            Step.RESUME: self._resume,
        }

    def state(self) -> GuestState:
        """What `holdover status` shows."""
        return GuestState(
            name=self.name,
            host=self._host,
            machine=str(self._machine),
            export=self.export,
            devices=tuple(self._device_state(lun, device) for lun, device in enumerate(self.devices)),
            sessions=self._sessions(),
            handover=self._handover,
        )

    def _sessions(self) -> tuple[SessionState, ...]:
        if self.target is None:
            return ()
        return tuple(SessionState(initiator=session.initiator) for session in self.target.sessions())

    def _device_state(self, lun: int, device: GuestDevice) -> DeviceState:
        tracked = device.tracked
        return DeviceState(
            id=device.block.options.id or f"lun{lun}",
            lun=lun,
            drive=device.name,
            designator=str(device.designator) if device.designator else None,
            migrate_pr=device.block.migrate_pr,
            gate=device.block.gate.value,
            key=tracked.key,
            type=None if tracked.type is None else int(tracked.type),
            scope=tracked.scope,
            aptpl=tracked.aptpl,
            stale=device.block.stale,
            in_flight=device.in_flight,
            held=device.held,
        )

    async def step(self, step: Step, handover: str, devices: tuple[Moved, ...]) -> tuple[Moved, ...]:
        """Do one step of a handover.

        Raises:
            StepProblem: It could not be done; the message says what is true now.
        """
        async with self._one_step:
            if self._handover is not None and self._handover != handover:
                raise StepProblem(
                    step,
                    f"handover {self._handover} of this guest is under way on {self._host}; "
                    "wait for it, or end it with holdover rollback",
                )
            if self._recorded != handover:
                self._recorded, self._record = handover, {}
            if step not in self._record:
                self._record[step] = await self._do(step, handover, devices)
            return self._record[step]

    async def _do(self, step: Step, handover: str, devices: tuple[Moved, ...]) -> tuple[Moved, ...]:
        told = {moved.designator: moved for moved in devices}
        try:
            answer = await self._steps[step](told)
        except BaseException as error:
            log.warning("step failed", guest=self.name, step=step.value, handover=handover, error=str(error))
            raise
        log.info("step", guest=self.name, step=step.value, handover=handover)
        self._handover = None if step in _LAST_STEPS else handover
        return tuple(answer)

    async def _each(
        self,
        step: Step,
        what: Callable[[GuestDevice], Awaitable[Moved]],
        devices: list[GuestDevice] | None = None,
    ) -> list[Moved]:
        """Do ``what`` on all devices at once; the first problem is raised when all have ended."""
        some = self.devices if devices is None else devices
        results = await asyncio.gather(*(what(device) for device in some), return_exceptions=True)
        answers: list[Moved] = []
        for device, result in zip(some, results, strict=True):
            if isinstance(result, StepFailed | PathError):
                raise StepProblem(step, str(result), _label(device)) from result
            if isinstance(result, BaseException):
                raise result
            answers.append(result)
        return answers

    # -- the giver --------------------------------------------------------------------------------

    async def _leave(self, _told: dict[str, Moved]) -> list[Moved]:
        self._require_gate(Step.LEAVE, Gate.RUNNING)
        self._move_gates(Gate.LEAVING)
        try:
            await self._drain(Step.LEAVE)
            return await self._each(Step.LEAVE, self._confirm)
        except BaseException:
            # nothing was changed on any LUN: the guest goes on
            self._move_gates(Gate.RUNNING)
            raise

    async def _drain(self, step: Step) -> None:
        for device in self.devices:
            if not await device.drain(self.limits.drain):
                raise StepProblem(step, f"{device.in_flight} commands are still in flight", _label(device))

    async def _confirm(self, device: GuestDevice) -> Moved:
        designator = str(await device.learn_designator(self.limits.step))
        if not device.block.migrate_pr:
            return Moved(designator=designator, migrate_pr=False)
        tracked = await device.run(confirm(device.tracked, stale=device.block.stale), self.limits.step)
        device.block.adopt(tracked)
        self._confirmed[designator] = tracked
        self._spare_keys[designator] = secrets.randbits(63) + 1
        return _moved(designator, tracked)

    async def _give(self, told: dict[str, Moved]) -> list[Moved]:
        async def one(device: GuestDevice) -> Moved:
            moved = self._told(Step.GIVE, told, device)
            if not moved.migrate_pr:
                return moved
            tracked = self._confirmed[moved.designator]
            prey = await device.run(
                give(tracked, shared=moved.shared, spare_key=self._spare_keys[moved.designator]),
                self.limits.step,
            )
            return _moved(moved.designator, tracked, prey=prey)

        self._require_gate(Step.GIVE, Gate.LEAVING)
        return await self._each(Step.GIVE, one)

    async def _finish(self, told: dict[str, Moved]) -> list[Moved]:
        async def one(device: GuestDevice) -> Moved:
            moved = self._told(Step.FINISH, told, device)
            if moved.migrate_pr:
                device.block.adopt(Tracked())
                await device.run(settle(), self.limits.step)
            return moved

        self._require_gate(Step.FINISH, Gate.LEAVING, Gate.DEPARTED)
        # first of all: from here on nothing of a guest left behind reaches a LUN; whatever
        # else fails below, this handover is over
        self._move_gates(Gate.DEPARTED)
        self._handover = None
        return await self._each(Step.FINISH, one)

    async def _reclaim(self, told: dict[str, Moved]) -> list[Moved]:
        async def one(device: GuestDevice) -> Moved:
            moved = self._told(Step.RECLAIM, told, device)
            tracked = self._confirmed.get(moved.designator, Tracked())
            if not moved.migrate_pr or tracked.key == 0:
                return moved
            found = await device.run(
                take_back_registration(tracked, self._spare_keys[moved.designator]), self.limits.step
            )
            return _moved(moved.designator, tracked, shared=found.shared, lost=not found.was_registered)

        self._require_gate(Step.RECLAIM, Gate.LEAVING)
        return await self._each(Step.RECLAIM, one)

    async def _resume(self, told: dict[str, Moved]) -> list[Moved]:
        self._require_gate(Step.RESUME, Gate.LEAVING)
        answer = await self._each(Step.RESUME, lambda device: self._take_over(Step.RESUME, told, device))
        self._move_gates(Gate.RUNNING)
        return answer

    # -- the taker --------------------------------------------------------------------------------

    async def _register(self, told: dict[str, Moved]) -> list[Moved]:
        step = Step.REGISTER
        self._require_gate(step, Gate.INCOMING, Gate.DEPARTED)
        await self._each(step, self._identify)
        self._compare(step, told)

        async def one(device: GuestDevice) -> Moved:
            moved = self._told(step, told, device)
            tracked = _tracked(moved)
            if not moved.migrate_pr or tracked.key == 0:
                return moved
            found = await device.run(register(tracked), self.limits.step)
            return _moved(moved.designator, tracked, shared=found.shared)

        self._move_gates(Gate.INCOMING)
        return await self._each(step, one)

    async def _identify(self, device: GuestDevice) -> Moved:
        return Moved(designator=str(await device.learn_designator(self.limits.step)))

    def _compare(self, step: Step, told: dict[str, Moved]) -> None:
        """Both hosts give the guest the same LUNs with the same ``migrate-pr``, or nothing is done."""
        mine = {str(device.designator): device for device in self.devices}
        if len(mine) != len(self.devices):
            raise StepProblem(step, "two devices of the guest lead to one LUN on this host")
        for designator in told.keys() - mine.keys():
            raise StepProblem(step, "the guest has this LUN on the giver and not on this host", designator)
        for designator in mine.keys() - told.keys():
            raise StepProblem(step, "the guest has this LUN on this host and not on the giver", designator)
        for designator, device in mine.items():
            ours, theirs = device.block.migrate_pr, told[designator].migrate_pr
            if ours != theirs:
                raise StepProblem(
                    step,
                    f"migrate-pr is {_on(theirs)} on the giver and {_on(ours)} on this host; "
                    "give the device the same setting on both",
                    designator,
                )

    async def _preempt(self, told: dict[str, Moved]) -> list[Moved]:
        self._require_gate(Step.PREEMPT, Gate.INCOMING)
        answer = await self._each(Step.PREEMPT, lambda device: self._take_over(Step.PREEMPT, told, device))
        self._move_gates(Gate.RUNNING)
        return answer

    async def _take_over(self, step: Step, told: dict[str, Moved], device: GuestDevice) -> Moved:
        moved = self._told(step, told, device)
        if moved.migrate_pr:
            tracked = _tracked(moved)
            await device.run(preempt(tracked, moved.prey), self.limits.step)
            await device.run(settle(), self.limits.step)
            device.block.adopt(tracked)
        return moved

    async def _close(self, told: dict[str, Moved]) -> list[Moved]:
        # a gate that this handover did not open is another's: a guest that really runs here
        ours = (Gate.RUNNING,) if Step.PREEMPT in self._record else ()
        self._require_gate(Step.CLOSE, Gate.INCOMING, Gate.DEPARTED, *ours)
        self._move_gates(Gate.INCOMING)
        await self._drain(Step.CLOSE)
        return list(told.values())

    async def _return(self, told: dict[str, Moved]) -> list[Moved]:
        async def one(device: GuestDevice) -> Moved:
            moved = self._told(Step.RETURN, told, device)
            tracked = _tracked(moved)
            if not moved.migrate_pr:
                return moved
            prey = 0
            if moved.lost:
                spare_key = secrets.randbits(63) + 1
                prey = await device.run(
                    give(tracked, shared=moved.shared, spare_key=spare_key), self.limits.step
                )
            else:
                await device.run(withdraw(tracked), self.limits.step)
            device.block.adopt(Tracked())
            return _moved(moved.designator, tracked, prey=prey)

        self._require_gate(Step.RETURN, Gate.INCOMING)
        return await self._each(Step.RETURN, one)

    # -- both -------------------------------------------------------------------------------------

    def _require_gate(self, step: Step, *gates: Gate) -> None:
        for device in self.devices:
            if device.block.gate not in gates:
                allowed = " or ".join(gate.value for gate in gates)
                raise StepProblem(
                    step,
                    f"the gate is {device.block.gate.value}, {step.value} wants {allowed}",
                    _label(device),
                )

    def _move_gates(self, gate: Gate) -> None:
        for device in self.devices:
            device.move_gate(gate)

    def _told(self, step: Step, told: dict[str, Moved], device: GuestDevice) -> Moved:
        moved = told.get(str(device.designator))
        if moved is None:
            raise StepFailed(step.value, "the request says nothing about this LUN")
        return moved

    async def close(self) -> None:
        """End the export and let go of the LUNs."""
        if self.target is not None:
            await self.target.close()
        for device in self.devices:
            await device.close()


def _label(device: GuestDevice) -> str:
    return f"{device.name} ({device.designator})" if device.designator else device.name


def _on(value: bool) -> str:
    return "on" if value else "off"


def _tracked(moved: Moved) -> Tracked:
    kind = None if moved.type is None else ReservationType(moved.type)
    return Tracked(key=moved.key, aptpl=moved.aptpl, type=kind, scope=moved.scope)


def _moved(
    designator: str, tracked: Tracked, *, shared: bool = False, lost: bool = False, prey: int = 0
) -> Moved:
    return Moved(
        designator=designator,
        key=tracked.key,
        type=None if tracked.type is None else int(tracked.type),
        scope=tracked.scope,
        aptpl=tracked.aptpl,
        shared=shared,
        lost=lost,
        prey=prey,
    )
