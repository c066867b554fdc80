"""Run inside a kernel of the rig: the logical unit beside the kernel's target, command by command.

Hypothesis draws sequences of reservation commands; each command goes to both, and after it both are asked for
their keys, their reservation and their full status. Arguments: where to write what was seen (JSON: see
`Figures`), how many sequences, how many steps a sequence has at most, and the seed, or none for the same
sequences every time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import hypothesis
import msgspec
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.lun.reservations import ReservationState
from holdover.paths.sgio_header import SG_IO, SgRequest, judge
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import Capabilities
from holdover.scsi.reservation.reservation_out import ParameterList, in_command, out_command
from holdover.scsi.reservation.transport_id import SasTransportID
from holdover.scsi.sense import describe_response, is_unit_attention
from tests.peers.lun_differences import EXAMPLES, FORGOTTEN, MOVED_BACK, Met, explain
from tests.peers.reservation_sequences import (
    NEXUSES,
    Access,
    Look,
    Out,
    Step,
    beginnings,
    command,
    sender,
    steps,
)

Execute = Callable[[int, Command], Awaitable[Response]]

_OBSERVER = NEXUSES  # a nexus that never registers, so that no unit attention is ever in its way
_READY = Command(bytes(6))
_READS = (InServiceAction.READ_KEYS, InServiceAction.READ_RESERVATION, InServiceAction.READ_FULL_STATUS)
_PATIENCE = 600.0
_ALL_TG_PT = 0x02
_APTPL = frozenset(
    {
        OutServiceAction.REGISTER,
        OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY,
        OutServiceAction.REGISTER_AND_MOVE,
        OutServiceAction.CLEAR,
    }
)
_CAPABILITIES = in_command(InServiceAction.REPORT_CAPABILITIES, 8)


@dataclass(slots=True)
class Figures:
    """What was seen.

    Attributes:
        commands: How many commands went to both and were compared.
        sequences: How many sequences.
        attentions: How often a nexus was asked for its unit attentions.
        known: How often each known difference was met.
        cuts: How many sequences ended early, as a known difference left two states.
        ends: How often each service action ended how, at ours.
        held: How many commands met which reservation, and how many registrations.
        seconds: How long it took.
        failure: What no known difference explains: the shortest sequence that shows it.
    """

    commands: int = 0
    sequences: int = 0
    attentions: int = 0
    known: dict[str, int] = field(default_factory=Counter)
    cuts: dict[str, int] = field(default_factory=Counter)
    ends: dict[str, int] = field(default_factory=Counter)
    held: dict[str, int] = field(default_factory=Counter)
    seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an initiator can read of the reservations."""

    generation: int
    state: tuple[bytes, ...]
    activated: bool


class Target(Protocol):
    """The kernel's target, through three nexuses and the observer's."""

    @property
    def nexuses(self) -> list[ITNexus]:
        """Which these are."""
        ...

    @property
    def ports(self) -> tuple[int, ...]:
        """The relative target port identifiers of all its ports."""
        ...

    @property
    def aborts(self) -> bool:
        """Whether it answers a PREEMPT AND ABORT that does something."""
        ...

    async def execute(self, nexus: int, command: Command) -> Response:
        """Carry out one command through a nexus."""
        ...


class Loopback:
    """The target through SG_IO: each nexus has a disk, an initiator and a target port of its own.

    It blocks, as nothing else is to do meanwhile. Linux 6.1 never answers PREEMPT AND ABORT here:
    core_tmr_lun_reset() waits for the end of the work item that it runs in.
    """

    ports = tuple(range(1, NEXUSES + 2))
    aborts = False

    def __init__(self) -> None:
        addresses = [bytes.fromhex(f"60014050000000{port:02x}") for port in self.ports]
        initiators = [SasTransportID(address) for address in addresses]
        self.nexuses = [ITNexus(*each) for each in zip(initiators, self.ports, strict=True)]
        self._disks = [os.open(f"/dev/sd{letter}", os.O_RDWR | os.O_NONBLOCK) for letter in "abcd"]
        self._request = SgRequest()

    async def execute(self, nexus: int, command: Command) -> Response:
        self._request.lay_out(command, _PATIENCE)
        fcntl.ioctl(self._disks[nexus], SG_IO, self._request.header)
        return judge(f"nexus {nexus}", self._request.result())


class Ours:
    """The embedded LUN, through nexuses like the kernel's."""

    def __init__(self, file: Path, target: Target) -> None:
        self.nexuses = target.nexuses
        self.lun = EmbeddedLun.open(LunOptions(file, size=1 << 20), ports=target.ports)

    async def execute(self, nexus: int, command: Command) -> Response:
        return await self.lun.execute(self.nexuses[nexus], command)


class Comparison:
    """Both, and what was seen of them."""

    def __init__(self, ours: Ours, kernel: Target) -> None:
        self.figures = Figures()
        self._ours = ours
        self._kernel = kernel
        self._story: list[tuple[object, ...]] = []
        self._movers: set[int] = set()

    async def meet(self) -> None:
        """Whatever each has to say to a new nexus is said."""
        for nexus in range(NEXUSES + 1):
            await drain(self._ours.execute, nexus)
            await drain(self._kernel.execute, nexus)

    async def run(self, steps: Iterable[Step]) -> None:
        """One sequence, from no registrations on; no more steps are asked for than are compared.

        Raises:
            AssertionError: Something differs that no known difference explains; it tells the sequence.
        """
        self.figures.sequences += 1
        self._story = []
        await forget_all(self._ours.execute)
        await forget_all(self._kernel.execute)
        self._movers = set()
        seen = await self._look((None, None))
        for step in steps:
            for each in self._followed(step):
                after = await self._take(each, seen)
                if after is None:
                    return
                seen = after

    def _followed(self, step: Step) -> Iterator[Step]:
        """A step, and what is to be tried after it.

        Of a reservation that returns to who moved it away the kernel has an idea of its own (`MOVED_BACK`).
        It is looked for at once, as it would show in many ways later.
        """
        before, sender = self._ours.lun.state.reservation, self._sender(step)
        yield step
        if not isinstance(step, Out) or step.action != OutServiceAction.REGISTER_AND_MOVE:
            return
        if self._ours.lun.state.reservation == before:
            return
        self._movers.add(sender)
        if step.to in self._movers:
            yield Look(step.to)
            yield Out(step.to, OutServiceAction.RESERVE)

    async def _take(self, step: Step, before: tuple[Seen, Seen]) -> tuple[Seen, Seen] | None:
        """One step; None where a known difference has left two states."""
        if not isinstance(step, Look):
            return await self._compare(step, before)
        await self._compare_attentions(self._sender(step))
        return before

    async def _look(self, before: tuple[Seen | None, Seen | None]) -> tuple[Seen, Seen]:
        alone = len(self._kernel.ports) == 1
        ours = await look(self._ours.execute, before[0], alone)
        return ours, await look(self._kernel.execute, before[1], alone)

    def _sender(self, step: Step) -> int:
        return sender(step, self._ours.lun.state, self._ours.nexuses)

    async def _compare(self, step: Out | Access, before: tuple[Seen, Seen]) -> tuple[Seen, Seen] | None:
        """What both show after a command; None where a known difference has left two states."""
        state, nexus = self._ours.lun.state, self._sender(step)
        sent = command(step, state, self._ours.nexuses)
        ours = await self._ours.execute(nexus, sent)
        kernels = await self._kernel.execute(nexus, self._in_its_place(step, sent, ours))
        # only what ends well and concerns APTPL can change whether it is activated
        known = before if not isinstance(step, Out) or step.action not in _APTPL else (None, None)
        after = await self._look(known)
        self._tell(step, nexus, sent, ours, kernels, state)
        parts = differing(ours, kernels, before, after)
        names: list[str] = []
        if parts:
            found = explain(self._met(step, nexus, sent, state, ours, kernels), parts)
            assert found is not None, self._say(f"{', '.join(sorted(parts))} differ: {after[0]}, {after[1]}")
            names = found
            for each in names:
                self.figures.known[each] += 1
        if is_unit_attention(ours) or is_unit_attention(kernels):
            await self._settle_attentions(nexus)
        if "state" in parts or MOVED_BACK in names:
            self.figures.cuts[names[0]] += 1
            return None
        return after

    def _in_its_place(self, step: Out | Access, sent: Command, ours: Response) -> Command:
        """What the kernel gets: PREEMPT for a PREEMPT AND ABORT that does something and has no answer there.
        Where nothing is to be aborted both end alike (SPC-4 5.13.11.2.6)."""
        aborts = isinstance(step, Out) and step.action == OutServiceAction.PREEMPT_AND_ABORT and ours.good
        if not aborts or self._kernel.aborts:
            return sent
        return Command(bytes([sent.cdb[0], OutServiceAction.PREEMPT]) + sent.cdb[2:], sent.data_out)

    def _met(
        self,
        step: Out | Access,
        nexus: int,
        sent: Command,
        state: ReservationState,
        ours: Response,
        kernels: Response,
    ) -> Met:
        key, new = (int.from_bytes(sent.data_out[at : at + 8], "big") for at in (0, 8))
        registered = state.key_of(self._ours.nexuses[nexus]) != 0
        return Met(step, nexus, key, new, registered, len(self._kernel.ports), state, ours, kernels)

    async def _compare_attentions(self, nexus: int) -> None:
        ours = await drain(self._ours.execute, nexus)
        kernels = await drain(self._kernel.execute, nexus)
        self.figures.attentions += 1
        self._story.append((f"nexus {nexus} is told {ours}, by the kernel {kernels}",))
        if len(ours) > 1 and kernels == ours[:1]:
            self.figures.known[FORGOTTEN] += 1
        else:
            assert ours == kernels, self._say("unit attentions differ")

    async def _settle_attentions(self, nexus: int) -> None:
        """A unit attention was reported, and the kernel has then none left for this nexus."""
        ours = await drain(self._ours.execute, nexus)
        kernels = await drain(self._kernel.execute, nexus)
        assert not kernels, self._say(f"the kernel has more unit attentions: {kernels}")
        if ours:
            self.figures.known[FORGOTTEN] += 1

    def _tell(
        self,
        step: Out | Access,
        nexus: int,
        sent: Command,
        ours: Response,
        kernels: Response,
        state: ReservationState,
    ) -> None:
        self.figures.commands += 1
        name = action_name(step)
        self.figures.ends[f"{name}: {describe_response(ours)}"] += 1
        kind = "no reservation" if state.reservation is None else state.reservation.type.name
        self.figures.held[f"{kind}, {len(state.registrations)} registered"] += 1
        answers = (describe_response(ours), "- the kernel:", describe_response(kernels))
        self._story.append((f"nexus {nexus}", name, sent.cdb.hex(), sent.data_out[:64].hex(), *answers))

    def _say(self, what: str) -> str:
        return "\n".join([*(" ".join(map(str, each)) for each in self._story), what])


def differing(
    ours: Response, kernels: Response, before: tuple[Seen, Seen], after: tuple[Seen, Seen]
) -> set[str]:
    """Which parts of what is seen differ."""
    counted = [after[side].generation - before[side].generation for side in (0, 1)]
    parts = {
        "answer": (ours.status, ours.sense[:14]) != (kernels.status, kernels.sense[:14]),
        "state": after[0].state != after[1].state,
        "generation": counted[0] != counted[1],
        # what a known difference has left stays until the next REGISTER
        "activated": after[0].activated != after[1].activated and before[0].activated == before[1].activated,
    }
    return {part for part, differs in parts.items() if differs}


def action_name(step: Out | Access) -> str:
    """What a step does, in words."""
    if isinstance(step, Access):
        return "WRITE" if step.write else "READ"
    try:
        return OutServiceAction(step.action).name
    except ValueError:
        return f"service action {step.action:02X}h"


async def drain(execute: Execute, nexus: int) -> list[str]:
    """The additional sense codes of the unit attentions that wait for a nexus."""
    found: list[str] = []
    for _ in range(9):
        response = await execute(nexus, _READY)
        if not is_unit_attention(response):
            return found
        found.append(response.sense[12:14].hex())
    raise AssertionError(f"nexus {nexus} has no end of unit attentions: {found}")


async def look(execute: Execute, before: Seen | None, alone: bool) -> Seen:
    """What a nexus that has nothing to do with it all reads; PTPL_A is taken from what was before.

    ``alone``: the target has one port.
    """
    found = []
    for action in _READS:
        response = await execute(_OBSERVER, in_command(action, 1024))
        assert response.good, f"{action.name}: {describe_response(response)}"
        found.append(response.data_in)
    generations = {each[:4] for each in found}
    assert len(generations) == 1, f"PRgeneration differs from read to read: {generations}"
    if before is None:
        activated = Capabilities.decode((await execute(_OBSERVER, _CAPABILITIES)).data_in).ptpl_a
    else:
        activated = before.activated
    keys, reservation, full = (each[4:] for each in found)
    state = (keys, reservation, without_ports(full) if alone else full)
    return Seen(int.from_bytes(generations.pop(), "big"), state, activated)


def without_ports(status: bytes) -> bytes:
    """READ FULL STATUS data of a target with one port, from ADDITIONAL LENGTH on, without what names ports.

    Such a target may set ALL_TG_PT, or not, in any descriptor of a registration that was once made with
    it, and where it sets the bit RELATIVE TARGET PORT IDENTIFIER says nothing (SPC-4 6.15.5). Both become 0.
    """
    data, at = bytearray(status), 4
    while at + 24 <= len(data):
        data[at + 12] &= ~_ALL_TG_PT
        data[at + 18 : at + 20] = bytes(2)
        at += 24 + int.from_bytes(data[at + 20 : at + 24], "big")
    return bytes(data)


async def forget_all(execute: Execute) -> None:
    """No registration is left, APTPL is off, and nobody has anything to be told."""
    for nexus in range(NEXUSES):
        await drain(execute, nexus)
    # with ALL_TG_PT, as the kernel refuses to change a registration that was made with it otherwise
    data = ParameterList(0, 1, all_tg_pt=True).encode()
    cdb = PersistentReserveOut(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, len(data)).encode()
    for each in (Command(cdb, data), out_command(OutServiceAction.CLEAR, 1)):
        response = await execute(0, each)
        assert response.good, describe_response(response)
    for nexus in range(NEXUSES):
        await drain(execute, nexus)


def compare(make: Callable[[], Target], count: int, longest: int, seed: int | None) -> Figures:
    """Compare the examples of all known differences, and so many sequences that hypothesis draws.

    Args:
        make: Makes the kernel's target; called in the event loop.
        count: How many sequences hypothesis draws.
        longest: How many steps each has at most.
        seed: Draws others; None draws the same every time.
    """
    loop = asyncio.new_event_loop()

    async def start() -> Comparison:
        target = make()
        comparison = Comparison(Ours(Path("/dev/shm/lun"), target), target)
        await comparison.meet()
        return comparison

    comparison = loop.run_until_complete(start())

    def body(data: st.DataObject) -> None:
        loop.run_until_complete(comparison.run(draw(data, longest)))

    test = hypothesis.given(st.data())(body)
    if seed is not None:
        test = hypothesis.seed(seed)(test)
    test = hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(test)
    begun = time.monotonic()
    try:
        for each in EXAMPLES.values():
            loop.run_until_complete(comparison.run(each))
        test()
    except Exception:
        comparison.figures.failure = traceback.format_exc()
    comparison.figures.seconds = time.monotonic() - begun
    return comparison.figures


def draw(data: st.DataObject, longest: int) -> Iterator[Step]:
    """A sequence, step by step."""
    yield from data.draw(beginnings)
    for _ in range(longest):
        step = data.draw(steps)
        if step is None:
            return
        yield step


def main(make: Callable[[], Target], result: str, count: str, longest: str, seed: str = "") -> None:
    """Compare, and write the figures."""
    figures = compare(make, int(count), int(longest), int(seed) if seed else None)
    Path(result).write_bytes(msgspec.json.encode(figures))


if __name__ == "__main__":
    main(Loopback, *sys.argv[1:])
