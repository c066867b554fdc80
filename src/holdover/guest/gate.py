"""The gate of a guest's device: which commands may reach the logical unit while the guest moves.

Whatever is not known to be harmless touches the medium or the reservations. PERSISTENT RESERVE IN is not
harmless: away from its reservation the guest would be told the truth of the wrong nexus. Nor are RESERVE
and RELEASE.
"""

from __future__ import annotations

from enum import Enum

from holdover.scsi.cdb import Read, decode_cdb
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import MaintenanceInServiceAction as MaintenanceIn
from holdover.scsi.opcodes import OperationCode, ServiceActionIn16
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

__all__ = ["BECOMING_READY", "REFUSAL", "Gate", "is_harmless", "is_opening_read"]


class Gate(Enum):
    """Where a guest's device stands with its guest."""

    RUNNING = "running"
    """The guest runs here: every command passes."""
    INCOMING = "incoming"
    """The guest is to arrive: what is not harmless waits until the handover is committed."""
    LEAVING = "leaving"
    """The guest has stopped and is being handed over; it may still come back, so commands wait."""
    DEPARTED = "departed"
    """The guest runs elsewhere: what is not harmless is refused."""


_HARMLESS = frozenset(
    {
        OperationCode.TEST_UNIT_READY,
        OperationCode.REQUEST_SENSE,
        OperationCode.INQUIRY,
        OperationCode.MODE_SENSE_6,
        OperationCode.MODE_SENSE_10,
        OperationCode.READ_CAPACITY_10,
        OperationCode.LOG_SENSE,
        OperationCode.REPORT_LUNS,
    }
)

_READS = frozenset(
    {OperationCode.READ_6, OperationCode.READ_10, OperationCode.READ_12, OperationCode.READ_16}
)

# Operation codes of which some service actions are harmless.
_HARMLESS_ACTIONS: dict[int, frozenset[int]] = {
    OperationCode.SERVICE_ACTION_IN_16: frozenset({ServiceActionIn16.READ_CAPACITY_16}),
    OperationCode.MAINTENANCE_IN: frozenset(
        {
            MaintenanceIn.REPORT_TARGET_PORT_GROUPS,
            MaintenanceIn.REPORT_SUPPORTED_OPERATION_CODES,
            MaintenanceIn.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
        }
    ),
}


def is_harmless(command: Command) -> bool:
    """Whether a command touches neither the medium nor the reservations."""
    opcode = command.opcode
    if opcode in _HARMLESS:
        return True
    actions = _HARMLESS_ACTIONS.get(opcode)
    return actions is not None and len(command.cdb) > 1 and command.cdb[1] & 0x1F in actions


def is_opening_read(command: Command) -> bool:
    """Whether a command is what QEMU sends while it opens a disk: a READ of block 0 alone.

    It looks for a partition table there, to guess a geometry, and cannot answer its monitor until it has
    an answer: to hold this one would be to stop the very QEMU whose arrival is waited for.
    """
    if command.opcode not in _READS:
        return False
    try:
        cdb = decode_cdb(command.cdb)
    except DecodeError:
        return False
    return isinstance(cdb, Read) and cdb.lba == 0 and cdb.blocks == 1


# QEMU does without the geometry. A guest that runs too early asks again after a while, as it should: the
# medium will be ready when the handover is committed.
BECOMING_READY: Response = check_condition(
    SenseKey.NOT_READY, AdditionalSense.LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY
)
"""What a device that waits for its guest answers to `is_opening_read`, without a look at the medium."""

# True of reads and writes: DATA PROTECT is a read or write of a block that is protected (SPC-4 4.5.6). The
# additional sense says why, for every other command too. Linux fails such a command at once, as an error
# of the device and not of the path, so that multipath neither tries it elsewhere nor queues it; and at
# shutdown it forgives this additional sense in SYNCHRONIZE CACHE. Windows takes the key for a protected
# medium and does not retry. The other candidates are worse: NOT READY contradicts the GOOD of TEST UNIT
# READY and lets multipath queue for ever; ILLEGAL REQUEST reads as a command that the device lacks, which
# guests then leave out; RESERVATION CONFLICT claims a reservation where there may be none; BUSY is retried.
REFUSAL: Response = check_condition(SenseKey.DATA_PROTECT, AdditionalSense.LOGICAL_UNIT_ACCESS_NOT_AUTHORIZED)
"""What a departed device answers to a command that is not harmless."""
