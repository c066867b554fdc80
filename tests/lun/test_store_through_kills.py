"""SIGKILL of a real `holdover target` amid PERSISTENT RESERVE OUT with APTPL (see `test_store`).

Each kill comes at a random instant of several streams of commands at once, one for each logical unit: after
so many of their commands, however fast they are carried out. What a logical unit must be afterwards is
computed by the pure rules, from the answers that came.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdover.iscsi.url import parse_iscsi_url
from holdover.lun.commands.persistent import carry_out
from holdover.lun.reservations import ReservationState, TargetLimits
from holdover.paths.iscsi import InitiatorIdentity, IscsiPath, IscsiSessions, isid_of
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, ReservationType
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import PathError
from holdover.scsi.reservation.reservation_in import FullStatus, ReadReservation
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import is_unit_attention
from holdover.scsi.status import Status
from tests.rig.amounts import amount
from tests.rig.processes import Rig, Target

LUNS, KILLS = 5, amount(40, 200)
_NOTHING = ReservationState()
KEYS = (0x1111, 0x2222)
IDENTITIES = tuple(InitiatorIdentity(f"iqn.2026-01.test:{name}", isid_of(name)) for name in ("one", "two"))
NEXUSES = tuple(ITNexus(IscsiTransportID(each.initiator, each.isid)) for each in IDENTITIES)

Picture = tuple[frozenset[tuple[ITNexus, int]], ReservationType | None, frozenset[ITNexus]]
"""Who is registered with which key, the type of the reservation, and who holds it."""


@dataclass
class Kept:
    """One logical unit as its application clients know it.

    Attributes:
        paths: One for each of `NEXUSES`.
        state: What was acknowledged.
        in_flight: The state if the command without an answer was carried out; None without such a command.
        acknowledged: How many commands ended in GOOD.
    """

    paths: list[IscsiPath]
    state: ReservationState = _NOTHING
    in_flight: ReservationState | None = None
    acknowledged: int = 0


class Countdown:
    """Says when so many commands have ended in GOOD."""

    def __init__(self, commands: int) -> None:
        self._left = commands
        self.over = asyncio.Event()

    def one(self) -> None:
        """One more of them has."""
        self._left -= 1
        if self._left <= 0:
            self.over.set()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.end()


def any_command(chance: random.Random) -> Command:
    """Mostly what succeeds: keys are few, and so are the service actions that need none."""
    action = chance.choice([Out.REGISTER_AND_IGNORE_EXISTING_KEY] * 4 + [Out.RESERVE] * 3 + [*Out][1:6])
    key, other = chance.choice(KEYS), chance.choice((0, *KEYS, *KEYS))
    aptpl = chance.random() < 0.9
    kind = chance.choice([*ReservationType])
    return out_command(action, key, other, type=kind, aptpl=aptpl)


def after(state: ReservationState, nexus: ITNexus, command: Command) -> tuple[ReservationState, Status]:
    """What the rules say of a command."""
    cdb = PersistentReserveOut.decode(command.cdb)
    outcome = carry_out(cdb, command.data_out, state, nexus, TargetLimits())
    if outcome.good:
        return outcome.state, Status.GOOD
    return state, Status.RESERVATION_CONFLICT if outcome.conflict else Status.CHECK_CONDITION


async def stream(kept: Kept, chance: random.Random, countdown: Countdown) -> None:
    """Send commands until there is no answer any more."""
    while True:
        number = chance.randrange(len(NEXUSES))
        command = any_command(chance)
        state, status = after(kept.state, NEXUSES[number], command)
        kept.in_flight = state
        try:
            response = await kept.paths[number].execute(command)
        except PathError:
            return
        kept.in_flight = None
        if is_unit_attention(response):
            continue
        assert response.status is status, (command, response, kept.state)
        kept.state = state
        if response.good:
            kept.acknowledged += 1
            countdown.one()


async def ask(path: IscsiPath, command: Command) -> Response:
    response = await path.execute(command)
    while is_unit_attention(response):
        response = await path.execute(command)
    assert response.good
    return response


async def found(path: IscsiPath) -> Picture:
    status = FullStatus.decode((await ask(path, in_command(InServiceAction.READ_FULL_STATUS))).data_in)
    held = ReadReservation.decode((await ask(path, in_command(InServiceAction.READ_RESERVATION))).data_in)
    nexuses = {ITNexus(each.transport_id, each.relative_target_port): each for each in status.descriptors}
    return (
        frozenset((nexus, each.key) for nexus, each in nexuses.items()),
        None if held.reservation is None else ReservationType(held.reservation.type),
        frozenset(nexus for nexus, each in nexuses.items() if each.holder),
    )


def picture(state: ReservationState) -> Picture:
    held = state.reservation
    return (
        frozenset((each.nexus, each.key) for each in state.registrations),
        None if held is None else held.type,
        frozenset(each.nexus for each in state.registrations if state.holds(each.nexus)),
    )


async def kill_and_restart(rig: Rig, target: Target, units: list[Kept], chance: random.Random) -> None:
    countdown = Countdown(chance.randrange(100))
    streams = [asyncio.create_task(stream(kept, chance, countdown)) for kept in units]
    await countdown.over.wait()
    await asyncio.sleep(chance.uniform(0.0, 0.002))  # amid a command as well as at its end
    process = rig.processes[-1]
    process.popen.kill()
    await asyncio.gather(*streams)
    await asyncio.to_thread(process.popen.wait)
    arguments = ["target", "--listen", f"127.0.0.1:{target.port}", "--iqn", target.iqn]
    for file in target.files:
        arguments += ["--lun", f"file={file}"]
    await asyncio.to_thread(rig.start, "target", arguments, ports=[target.port])
    for kept in units:
        seen = await found(kept.paths[0])
        possible = [each.after_power_loss() for each in (kept.state, kept.in_flight) if each is not None]
        assert seen in [picture(each) for each in possible]
        kept.state = next(each for each in reversed(possible) if picture(each) == seen)
        kept.in_flight = None


def test_what_was_acknowledged_is_found_after_every_kill(rig: Rig) -> None:
    async def body() -> None:
        chance = random.Random(20260101)
        target = rig.target(luns=LUNS, size="1M")
        sessions = IscsiSessions()
        units = [
            Kept([sessions.path(parse_iscsi_url(target.url(lun)), each) for each in IDENTITIES])
            for lun in range(LUNS)
        ]
        kills = 0
        # Where the machine is busy, a kill often comes before anything is acknowledged: then there are more.
        while kills < KILLS or any(kept.acknowledged <= KILLS for kept in units):
            await kill_and_restart(rig, target, units, chance)
            kills += 1
        for kept in units:
            for path in kept.paths:
                await path.close()

    asyncio.run(body())
