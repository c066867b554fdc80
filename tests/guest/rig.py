"""What the tests of `guest` share: a guest's device in front of an embedded logical unit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.logical_unit import LogicalUnit
from holdover.lun.reservations import TargetLimits
from holdover.reservations.driver import run_sync
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import Capabilities, FullStatus
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.status import Status
from tests.lun.support import MemoryMedium

GUEST = ITNexus(IscsiTransportID("iqn.2026-01.org.example:host-a", bytes.fromhex("80a000000001")))
THIRD = ITNexus(IscsiTransportID("iqn.2026-01.org.example:third", bytes.fromhex("80a000000002")))

GOOD = Response(Status.GOOD)
WE = ReservationType.WRITE_EXCLUSIVE
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY

REGISTER = OutServiceAction.REGISTER
IGNORE = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY
RESERVE = OutServiceAction.RESERVE
RELEASE = OutServiceAction.RELEASE
CLEAR = OutServiceAction.CLEAR
PREEMPT = OutServiceAction.PREEMPT
PREEMPT_AND_ABORT = OutServiceAction.PREEMPT_AND_ABORT


def logical_unit(greet: bool = False, registrations: int = 1024) -> LogicalUnit:
    """An embedded logical unit; with `greet`, a nexus first meets a unit attention."""
    limits = TargetLimits(registrations=registrations)
    return LogicalUnit(MemoryMedium(), UnitIdentity("guest-test"), greet=greet, limits=limits)


def scsi_block(migrate_pr: bool | None = True, gate: Gate = Gate.RUNNING) -> ScsiBlock:
    """A device of a guest."""
    return ScsiBlock(DeviceOptions("disk0", "memory", migrate_pr), MachineType.parse("q35"), gate)


def drive(block: ScsiBlock, command: Command, answer: Callable[[Command], Response]) -> Response:
    """Carry out a command of the guest."""
    return run_sync(block.process(command), answer)


def script(*responses: Response) -> Callable[[Command], Response]:
    """A device that answers with these, in this order."""
    answers: Iterator[Response] = iter(responses)
    return lambda _: next(answers)


def unreachable(command: Command) -> Response:
    raise AssertionError(f"the logical unit sees {command}")


def truth(lun: LogicalUnit, nexus: ITNexus = GUEST) -> Tracked:
    """What an I_T nexus has by READ FULL STATUS, and by REPORT CAPABILITIES for APTPL."""
    status = FullStatus.decode(_read(lun, nexus, InServiceAction.READ_FULL_STATUS))
    aptpl = Capabilities.decode(_read(lun, nexus, InServiceAction.REPORT_CAPABILITIES)).ptpl_a
    for each in status.descriptors:
        if (each.transport_id, each.relative_target_port) == (nexus.initiator, nexus.target_port):
            return Tracked(each.key, aptpl, each.type, each.scope)
    return Tracked()


def _read(lun: LogicalUnit, nexus: ITNexus, action: InServiceAction) -> bytes:
    response = lun.execute(nexus, in_command(action))
    while not response.good:
        response = lun.execute(nexus, in_command(action))
    return response.data_in
