"""What the tests of a whole logical unit share."""

from __future__ import annotations

from holdover.lun.logical_unit import LogicalUnit
from holdover.lun.reservations import (
    PersistentReservation,
    Registration,
    ReservationState,
)
from holdover.scsi.cdbs.cdb import (
    Inquiry,
    ReportLuns,
    RequestSense,
)
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status
from tests.lun.support import (
    A,
    B,
    make_unit,
)

CONFLICT = Status.RESERVATION_CONFLICT
INQUIRY = Command(Inquiry(96).encode(), data_in_length=96)
REPORT_LUNS = Command(ReportLuns(256).encode(), data_in_length=256)
REQUEST_SENSE = Command(RequestSense(252).encode(), data_in_length=252)


def status(unit: LogicalUnit, nexus: ITNexus, command: Command) -> Status:
    return unit.execute(nexus, command).status


def holding(kind: Type) -> LogicalUnit:
    """A holds a reservation of this type, B is registered, C is not."""
    registrations = (Registration(A, 1), Registration(B, 2))
    holder = None if kind.all_registrants else A
    return make_unit(ReservationState(registrations, PersistentReservation(kind, holder)))
