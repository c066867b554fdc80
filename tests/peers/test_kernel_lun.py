"""The logical unit beside the kernel's own: hundreds of reservation commands, and what each leads to.

Where they answer differently, the standard is on the side of ours; each such place is a row of `_KNOWN`,
and any other difference fails.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from holdover.lun.reservations import TargetLimits
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import OutServiceAction, ReservationType
from holdover.scsi.status import Status
from holdover.scsi.transport_id import SasTransportID
from tests.lun.support import make_unit
from tests.peers.kernel_inside_lun import SEQUENCES, Step, tell
from tests.rig.kernel import observe

pytestmark = [
    pytest.mark.peer("user-mode-linux"),
    pytest.mark.xdist_group("kernel"),
]

_CONFLICT = int(Status.RESERVATION_CONFLICT)
_NOT_READY = "700002000000000a000000000800"
_IN_CDB = "700005000000000a000000002400"
_IN_LIST = "700005000000000a000000002600"
_STATE = ("attentions", "READ_KEYS", "READ_RESERVATION", "READ_FULL_STATUS")


def _action(step: Step) -> int:
    return int(step["cdb"][2:4], 16)


def _type(step: Step) -> int:
    return int(step["cdb"][5], 16)


def _scope(step: Step) -> int:
    return int(step["cdb"][4], 16)


_KNOWN: dict[str, Callable[[Step, Step], bool]] = {
    # SPC-4 5.12.1: a nexus that is not registered meets a conflict; the kernel says that it is not ready
    "not registered": lambda ours, kernel: ours["status"] == _CONFLICT and kernel["sense"] == _NOT_READY,
    # the kernel looks who holds before it looks at the key (SAM-5 5.3.3 ranks the conflict first)
    "nothing to release": lambda ours, kernel: (
        _action(ours) == OutServiceAction.RELEASE and ours["status"] == _CONFLICT and kernel["status"] == 0
    ),
    # likewise it finds that nobody has SERVICE ACTION RESERVATION KEY 0
    "key 0 first": lambda ours, kernel: (
        _action(ours) == OutServiceAction.PREEMPT
        and ours["status"] == _CONFLICT
        and kernel["sense"] == _IN_LIST
        and int(ours["list"][16:32], 16) == 0
    ),
    # likewise at the type; and at that of a PREEMPT where there is no reservation, where the standard has it
    # ignored (SPC-4 5.12.11.2)
    "type first": lambda ours, kernel: _type(ours) not in set(ReservationType) and kernel["sense"] == _IN_CDB,
    # the field is one of the CDB; the kernel finds the parameter list at fault
    "scope": lambda ours, kernel: _scope(ours) != 0 and kernel["sense"] == _IN_LIST,
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return observe("tests.peers.kernel_inside_lun", tmp_path_factory.mktemp("kernel"), nexuses=3)


def _ours() -> list[list[Step]]:
    unit = make_unit(limits=TargetLimits(ports=(1, 2, 3)))
    nexuses = [
        ITNexus(SasTransportID(bytes.fromhex(f"60014050000000{port:02x}")), port) for port in (1, 2, 3)
    ]

    async def execute(nexus: int, command: Command) -> Response:
        return unit.execute(nexuses[nexus], command)

    return asyncio.run(tell(execute))


def test_the_same_commands_lead_to_the_same_state(kernel: list[list[Step]]) -> None:
    known: Counter[str] = Counter()
    compared = 0
    unknown = []
    for ours, theirs in zip(_ours(), kernel, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine["cdb"], mine["list"]) == (other["cdb"], other["list"])
            compared += 1
            if mine == other:
                continue
            reason = next((name for name, fits in _KNOWN.items() if fits(mine, other)), None)
            if reason is None:
                unknown.append((mine, other))
            else:
                known[reason] += 1
            if any(mine[part] != other[part] for part in _STATE):
                break  # one of the two has done something that the other has not
    assert unknown == []
    assert len(kernel) == SEQUENCES
    assert compared > 300
    assert set(known) == set(_KNOWN), "a difference that is no more has no place in the table"
    assert known.total() < compared / 3, "most answers are the same"
