"""What the tests of a guest's device share."""

from __future__ import annotations

from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState
from holdover.reservations.steps import Steps
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import Read
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response

REGISTER, RESERVE = OutServiceAction.REGISTER, OutServiceAction.RESERVE
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
READY = Command(UnitReady().encode())
READ = Command(Read(0, 1, 10).encode(), data_in_length=512)


def settled(tracked: Tracked) -> BlockState:
    return BlockState(True, Gate.RUNNING, tracked, stale=False)


def unsettled(tracked: Tracked, *candidates: int) -> BlockState:
    return BlockState(True, Gate.RUNNING, tracked, stale=True, candidates=candidates)


def _one(command: Command) -> Steps[Response]:
    return (yield command)
