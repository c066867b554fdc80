"""The gate of a guest's device: which commands may reach the logical unit while the guest moves.

A command counts as harmful unless it is known to touch neither the medium nor the reservations. PERSISTENT
RESERVE IN is not harmless: before the guest's reservation has moved here, the answer describes a nexus that
is not the guest's. RESERVE and RELEASE are not harmless either.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto

from holdover.scsi.cdbs.cdb import Read, decode_cdb
from holdover.scsi.cdbs.opcodes import MaintenanceInServiceAction as MaintenanceIn
from holdover.scsi.cdbs.opcodes import OperationCode, ServiceActionIn16
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition


class Gate(StrEnum):
    """The state of a guest's device: whether the guest runs here, arrives, leaves, or has left."""

    RUNNING = "running"
    """The guest runs here: every command passes."""
    INCOMING = "incoming"
    """The guest is going to arrive: a command that is not harmless waits until the handover is committed."""
    LEAVING = "leaving"
    """The guest has stopped and is being handed over. Commands wait, because the guest may come back."""
    DEPARTED = "departed"
    """The guest runs on another host: a command that is not harmless is refused."""


class GateDecision(Enum):
    """What happens to a command that the gate does not refuse."""

    PASS = auto()
    """The command goes on to the logical unit."""
    HOLD = auto()
    """The command waits until the gate changes. Then the gate is asked again."""


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

    QEMU looks for a partition table in block 0, to guess a geometry. QEMU does not answer its monitor before
    it has the response. So a gate that held this command would stop the QEMU for which the gate waits.
    """
    if command.opcode not in _READS:
        return False
    try:
        cdb = decode_cdb(command.cdb)
    except DecodeError:
        return False
    return isinstance(cdb, Read) and cdb.lba == 0 and cdb.blocks == 1


# QEMU can do without the geometry. A guest that runs too early gets this answer too, and asks again after a
# while. That is right, because the medium is ready when the handover is committed.
BECOMING_READY: Response = check_condition(
    SenseKey.NOT_READY, AdditionalSense.LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY
)
"""What a device whose guest has not arrived answers to `is_opening_read`, without access to the medium."""

# DATA PROTECT is correct for reads and writes: it stands for a read or write of a protected block (SPC-4
# 4.5.6). The additional sense gives the reason, for every other command too. Linux fails such a command at
# once, as an error of the device and not of the path. So multipath neither tries another path nor queues the
# command. At shutdown, Linux ignores this additional sense of SYNCHRONIZE CACHE. Windows takes
# DATA PROTECT for a protected medium and does not retry. The other answers are worse: NOT READY contradicts
# the GOOD of TEST UNIT READY and lets multipath queue for ever. ILLEGAL REQUEST means that the device lacks
# the command, and guests then stop using the command. RESERVATION CONFLICT claims a reservation where there
# may be none. BUSY is retried.
REFUSAL: Response = check_condition(SenseKey.DATA_PROTECT, AdditionalSense.LOGICAL_UNIT_ACCESS_NOT_AUTHORIZED)
"""What a departed device answers to a command that is not harmless."""
