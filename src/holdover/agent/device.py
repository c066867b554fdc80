"""One device of a guest: the shell around `ScsiBlock` that has a path and a gate to wait at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from holdover.agent.runner import run_steps
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import Admission, ScsiBlock, Tracked
from holdover.handover.steps import Steps, T, identify
from holdover.paths.path import AnswerLost, Path, PathError
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import OperationCode
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.transport_id import IscsiTransportID

__all__ = ["GuestDevice"]

log = structlog.get_logger()


class GuestDevice:
    """A `DeviceServer` for a guest: every command goes through its `ScsiBlock`, then down its path.

    With ``migrate-pr`` on, the guest is one I_T nexus, whoever of its processes is logged in. With it
    off, the device is a plain gateway, and each initiator name that logs in has a nexus of its own.
    """

    def __init__(self, block: ScsiBlock, name: str, open_path: Callable[[str], Path]) -> None:
        """``open_path`` makes the path of an initiator name; "" is the guest itself."""
        self.block = block
        self.name = name
        self._open_path = open_path
        self._path = open_path("")
        self._gateway_paths: dict[str, Path] = {}
        self._designator: Designator | None = None
        self._gate_moved = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._reserve_out = asyncio.Lock()
        self.in_flight = 0
        self.held = 0

    @property
    def designator(self) -> Designator | None:
        """By what the LUN is known on every host; None until it was asked."""
        return self._designator

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out a command of the guest, after waiting for the gate where it has to."""
        if self.block.gate is not Gate.RUNNING:
            refusal = await self._pass_gate(command)
            if refusal is not None:
                return refusal
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            # the snoop must see the end of it even if the guest's connection goes in the meantime
            return await asyncio.shield(asyncio.ensure_future(self._reserve(nexus, command)))
        return await self._carry(nexus, command)

    async def _reserve(self, nexus: ITNexus, command: Command) -> Response:
        # one at a time: what the snoop asks after one must not see the effect of the next
        async with self._reserve_out:
            return await self._carry(nexus, command)

    async def _carry(self, nexus: ITNexus, command: Command) -> Response:
        self.in_flight += 1
        self._idle.clear()
        try:
            if self.block.passes_through(command):
                return await self._path_of(nexus).execute(command)
            return await self._process(command)
        except PathError as error:
            return self._unanswered(command, error)
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()

    async def reset(self) -> None:
        """LOGICAL UNIT RESET by the guest: other nexuses of the LUN are not its own to disturb."""

    async def _pass_gate(self, command: Command) -> Response | None:
        """Wait until the gate lets ``command`` pass; an answer when it refuses it."""
        while True:
            admission = self.block.admit(command)
            if isinstance(admission, Response):
                return admission
            if admission is Admission.PASS:
                return None
            self.held += 1
            try:
                await self._gate_moved.wait()
            finally:
                self.held -= 1

    async def _process(self, command: Command) -> Response:
        steps = self.block.process(command)
        try:
            request = next(steps)
            while True:
                try:
                    answer = await self._path.execute(request)
                except PathError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as done:
            response: Response = done.value
            return response

    def _path_of(self, nexus: ITNexus) -> Path:
        if self.block.migrate_pr or not isinstance(nexus.initiator, IscsiTransportID):
            return self._path
        name = nexus.initiator.name
        path = self._gateway_paths.get(name)
        if path is None:
            path = self._gateway_paths[name] = self._open_path(name)
        return path

    def _unanswered(self, command: Command, error: PathError) -> Response:
        """The LUN did not answer: say so in a way that guests try again (SPC-4 table 56)."""
        log.warning(
            "no answer from the LUN", device=self.name, opcode=f"{command.opcode:#04x}", error=str(error)
        )
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT and isinstance(error, AnswerLost):
            self.block.mark_stale()
        return check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)

    def move_gate(self, gate: Gate) -> None:
        """Set the gate; commands that wait there look at it again."""
        self.block.gate = gate
        self._gate_moved.set()
        self._gate_moved = asyncio.Event()

    async def drain(self, limit: float) -> bool:
        """Wait until nothing is in flight to the LUN; False when ``limit`` seconds were not enough."""
        try:
            async with asyncio.timeout(limit):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def run(self, steps: Steps[T], limit: float) -> T:
        """Carry out the agent's own commands as the guest's nexus, past the gate."""
        return await run_steps(self._path, steps, limit)

    async def learn_designator(self, limit: float) -> Designator:
        """Ask the LUN for its designator, every time: a path may lead elsewhere after a change."""
        self._designator = await self.run(identify(), limit)
        return self._designator

    @property
    def tracked(self) -> Tracked:
        """What the guest established, as far as it was seen."""
        return self.block.tracked

    async def close(self) -> None:
        """Let go of the LUN."""
        for path in (self._path, *self._gateway_paths.values()):
            await path.close()
