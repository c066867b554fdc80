"""Run inside a kernel of the rig: hundreds of reservation commands from three nexuses to the kernel's target.

Writes what the target answers to the file that is its argument. `test_kernel_lun` has a logical unit of ours
answer the same commands.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from holdover.paths.sgio import SgIo, SgioPath
from holdover.scsi.cdb import PersistentReserveOut, TestUnitReady
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.reservation_out import ParameterList, in_command
from holdover.scsi.sense import is_unit_attention

SEQUENCES, STEPS, NEXUSES = 32, 12, 3

Execute = Callable[[int, Command], Awaitable[Response]]
Step = dict[str, Any]

_KEYS = (0xA, 0xB, 0xC)
_READY = Command(TestUnitReady().encode())
_READS = (InServiceAction.READ_KEYS, InServiceAction.READ_RESERVATION, InServiceAction.READ_FULL_STATUS)
# PREEMPT AND ABORT stays out: the kernel's loopback fabric (6.1) never answers it.
_ACTIONS = (
    [OutServiceAction.REGISTER] * 4
    + [OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY] * 3
    + [OutServiceAction.RESERVE] * 4
    + [OutServiceAction.PREEMPT] * 4
    + [OutServiceAction.RELEASE] * 2
    + [OutServiceAction.CLEAR]
)
_TYPES = (1, 3, 5, 6, 7, 8)


def command(
    action: int, key: int, new: int = 0, kind: int = 0, scope: int = 0, aptpl: bool = False
) -> Command:
    """A PERSISTENT RESERVE OUT, right or wrong."""
    data = ParameterList(key, new, aptpl=aptpl).encode()
    return Command(PersistentReserveOut(action, len(data), kind, scope).encode(), data)


def sequence(number: int) -> Iterator[tuple[int, Command]]:
    """Who sends what: most of it makes sense, from nexuses that mostly know their keys."""
    draw = random.Random(number)
    kind = draw.choice(_TYPES)
    for nexus in range(draw.randint(1, NEXUSES)):
        yield nexus, command(OutServiceAction.REGISTER, 0, _KEYS[nexus], aptpl=draw.random() < 0.2)
    for _ in range(STEPS):
        nexus = draw.randrange(NEXUSES)
        action = draw.choice(_ACTIONS)
        key = draw.choice([_KEYS[nexus]] * 6 + [0, 0xBAD])
        new = draw.choice([*_KEYS, *_KEYS, 0, 0xBAD])
        if action is OutServiceAction.RESERVE and draw.random() < 0.2:
            kind = draw.choice(_TYPES)
        wrong = draw.choice([kind] * 8 + [0, 2, 15, draw.choice(_TYPES)])
        scope = draw.choice([0] * 12 + [1])
        yield nexus, command(action, key, new, wrong, scope)


async def drain(execute: Execute, nexus: int) -> list[str]:
    """The sense data of the unit attentions that wait for a nexus."""
    found: list[str] = []
    for _ in range(8):
        response = await execute(nexus, _READY)
        if not is_unit_attention(response):
            return found
        found.append(response.sense[:14].hex())
    return found


async def clear(execute: Execute) -> None:
    """Nobody is registered afterwards, and nobody has anything to be told."""
    ignore = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
    await execute(0, command(ignore, 0, _KEYS[0]))
    await execute(0, command(OutServiceAction.CLEAR, _KEYS[0]))
    for nexus in range(NEXUSES):
        await drain(execute, nexus)


async def tell(execute: Execute) -> list[list[Step]]:
    """All sequences, and after each command what everybody is told and what is registered and reserved."""
    told = []
    for number in range(SEQUENCES):
        await clear(execute)
        steps: list[Step] = []
        for nexus, each in sequence(number):
            response = await execute(nexus, each)
            step: Step = {
                "nexus": nexus,
                "cdb": each.cdb.hex(),
                "list": each.data_out.hex(),
                "status": int(response.status),
                "sense": response.sense[:14].hex(),
                "attentions": [await drain(execute, other) for other in range(NEXUSES)],
            }
            for action in _READS:
                # without PRgeneration, which goes on from sequence to sequence
                step[action.name] = (await execute(0, in_command(action, 8192))).data_in[4:].hex()
            steps.append(step)
        told.append(steps)
    return told


async def main() -> list[list[Step]]:
    io = SgIo(1)
    paths = [SgioPath(Path(f"/dev/sd{letter}"), io) for letter in "abc"]
    told = await tell(lambda nexus, each: paths[nexus].execute(each))
    for path in paths:
        await path.close()
    io.close()
    return told


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(main())))
