"""The commands that a reservation lets through: the standards' own tables.

Table 65 of SPC-4 (5.13.1) for the commands of every device type, table 13 of SBC-4 (4.17, the same as
SBC-3's) for those of disks, table 66 of SPC-4 for PERSISTENT RESERVE OUT, and the column "reserved by
another initiator" of SPC-2 (5.5.1) for RESERVE(6) and RESERVE(10). A reservation holder's commands are
always allowed, so no table has them.

To change what is refused, change a row. A row is the command and one letter for each column,
A(llowed) or C(onflict), in the order in which the standards print them:

    L       reserved by RESERVE(6) or RESERVE(10) of another I_T nexus (SPC-2)
    WE EA   any other I_T nexus, Write Exclusive and Exclusive Access
    RR      a registered I_T nexus, any registrants only or all registrants type
    WE EA   an I_T nexus not registered, the same types, write exclusive and exclusive access kind

No standard has a column L for commands that came after SPC-2. Their letter here is C, except for READ
CAPACITY(16), which does what READ CAPACITY(10) does. No logical unit here has an operation code without a
row.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from holdover.scsi.cdbs.opcodes import CopyOutServiceAction as _Copy
from holdover.scsi.cdbs.opcodes import MaintenanceInServiceAction as _In
from holdover.scsi.cdbs.opcodes import MaintenanceOutServiceAction as _Out
from holdover.scsi.cdbs.opcodes import OperationCode as Op
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType, ServiceActionIn16


class Standing(IntEnum):
    """The relation of an I_T nexus to a persistent reservation (SPC-4 5.13.10)."""

    NOT_REGISTERED = 0
    REGISTERED = 1
    HOLDER = 2


_ANY = None
_START, _STOP = 1, 0
_ALLOW, _PREVENT = 0, 1

# command, service action or variant            L  WE EA RR WE EA
_TABLE: tuple[tuple[Op, int | None, str], ...] = (
    # SPC-4 table 65
    (Op.ACCESS_CONTROL_IN, _ANY, "              A  A  A  A  A  A"),
    (Op.ACCESS_CONTROL_OUT, _ANY, "             A  A  A  A  A  A"),
    (Op.EXTENDED_COPY, _Copy.EXTENDED_COPY_LID1, "C  C  C  A  C  C"),
    (Op.EXTENDED_COPY, _Copy.EXTENDED_COPY_LID4, "C  C  C  A  C  C"),
    (Op.EXTENDED_COPY, _Copy.COPY_OPERATION_ABORT, "C  C  C  A  C  C"),
    (Op.INQUIRY, _ANY, "                        A  A  A  A  A  A"),
    (Op.LOG_SELECT, _ANY, "                     C  C  C  A  C  C"),
    (Op.LOG_SENSE, _ANY, "                      A  A  A  A  A  A"),
    (Op.MAINTENANCE_IN, _In.MANAGEMENT_PROTOCOL_IN, "C  A  C  A  A  C"),
    (Op.MAINTENANCE_OUT, _Out.MANAGEMENT_PROTOCOL_OUT, "C  C  C  A  C  C"),
    (Op.MAINTENANCE_OUT, _Out.CHANGE_ALIASES, " C  C  C  A  C  C"),
    (Op.MODE_SELECT_6, _ANY, "                  C  C  C  A  C  C"),
    (Op.MODE_SELECT_10, _ANY, "                 C  C  C  A  C  C"),
    (Op.MODE_SENSE_6, _ANY, "                   C  A  C  A  A  C"),
    (Op.MODE_SENSE_10, _ANY, "                  C  A  C  A  A  C"),
    (Op.PERSISTENT_RESERVE_IN, _ANY, "          C  A  A  A  A  A"),
    (Op.READ_ATTRIBUTE, _ANY, "                 C  A  C  A  A  C"),
    (Op.READ_BUFFER_10, _ANY, "                 C  A  C  A  A  C"),
    (Op.RECEIVE_COPY_RESULTS, _ANY, "           C  A  A  A  A  A"),
    (Op.RECEIVE_DIAGNOSTIC_RESULTS, _ANY, "     C  A  C  A  A  C"),
    (Op.MAINTENANCE_OUT, _Out.REMOVE_I_T_NEXUS, "C  C  C  A  C  C"),
    (Op.MAINTENANCE_IN, _In.REPORT_ALIASES, "   C  A  A  A  A  A"),
    (Op.MAINTENANCE_IN, _In.REPORT_IDENTIFYING_INFORMATION, "A  A  A  A  A  A"),
    (Op.REPORT_LUNS, _ANY, "                    A  A  A  A  A  A"),
    (Op.MAINTENANCE_IN, _In.REPORT_PRIORITY, "  C  A  A  A  A  A"),
    (Op.MAINTENANCE_IN, _In.REPORT_SUPPORTED_OPERATION_CODES, "C  A  C  A  A  C"),
    (Op.MAINTENANCE_IN, _In.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS, "C  A  C  A  A  C"),
    (Op.MAINTENANCE_IN, _In.REPORT_TARGET_PORT_GROUPS, "C  A  A  A  A  A"),
    (Op.MAINTENANCE_IN, _In.REPORT_TIMESTAMP, " C  A  A  A  A  A"),
    (Op.REQUEST_SENSE, _ANY, "                  A  A  A  A  A  A"),
    (Op.SEND_DIAGNOSTIC, _ANY, "                C  C  C  A  C  C"),
    (Op.MAINTENANCE_OUT, _Out.SET_IDENTIFYING_INFORMATION, "C  C  C  A  C  C"),
    (Op.MAINTENANCE_OUT, _Out.SET_PRIORITY, "   C  C  C  A  C  C"),
    (Op.MAINTENANCE_OUT, _Out.SET_TARGET_PORT_GROUPS, "C  C  C  A  C  C"),
    (Op.MAINTENANCE_OUT, _Out.SET_TIMESTAMP, "  C  C  C  A  C  C"),
    (Op.TEST_UNIT_READY, _ANY, "                C  A  A  A  A  A"),
    (Op.WRITE_ATTRIBUTE, _ANY, "                C  C  C  A  C  C"),
    (Op.WRITE_BUFFER, _ANY, "                   C  C  C  A  C  C"),
    # SBC-4 table 13
    (Op.COMPARE_AND_WRITE, _ANY, "              C  C  C  A  C  C"),
    (Op.FORMAT_UNIT, _ANY, "                    C  C  C  A  C  C"),
    (Op.SERVICE_ACTION_IN_16, ServiceActionIn16.GET_LBA_STATUS, "C  A  C  A  A  C"),
    (Op.ORWRITE_16, _ANY, "                     C  C  C  A  C  C"),
    (Op.EXTENDED_COPY, _Copy.POPULATE_TOKEN, "  C  A  C  A  A  C"),
    (Op.PRE_FETCH_10, _ANY, "                   C  A  C  A  A  C"),
    (Op.PRE_FETCH_16, _ANY, "                   C  A  C  A  A  C"),
    (Op.PREVENT_ALLOW_MEDIUM_REMOVAL, _ALLOW, " A  A  A  A  A  A"),
    (Op.PREVENT_ALLOW_MEDIUM_REMOVAL, _PREVENT, "C  C  C  A  C  C"),
    (Op.READ_6, _ANY, "                         C  A  C  A  A  C"),
    (Op.READ_10, _ANY, "                        C  A  C  A  A  C"),
    (Op.READ_12, _ANY, "                        C  A  C  A  A  C"),
    (Op.READ_16, _ANY, "                        C  A  C  A  A  C"),
    (Op.READ_CAPACITY_10, _ANY, "               A  A  A  A  A  A"),
    (Op.SERVICE_ACTION_IN_16, ServiceActionIn16.READ_CAPACITY_16, "A  A  A  A  A  A"),
    (Op.READ_DEFECT_DATA_10, _ANY, "            C  A  C  A  A  C"),
    (Op.READ_DEFECT_DATA_12, _ANY, "            C  A  C  A  A  C"),
    (Op.REASSIGN_BLOCKS, _ANY, "                C  C  C  A  C  C"),
    (Op.SANITIZE, _ANY, "                       C  C  C  A  C  C"),
    (Op.START_STOP_UNIT, _START, "              A  A  A  A  A  A"),
    (Op.START_STOP_UNIT, _STOP, "               C  C  C  A  C  C"),
    (Op.SYNCHRONIZE_CACHE_10, _ANY, "           C  C  C  A  C  C"),
    (Op.SYNCHRONIZE_CACHE_16, _ANY, "           C  C  C  A  C  C"),
    (Op.UNMAP, _ANY, "                          C  C  C  A  C  C"),
    (Op.VERIFY_10, _ANY, "                      C  A  C  A  A  C"),
    (Op.VERIFY_12, _ANY, "                      C  A  C  A  A  C"),
    (Op.VERIFY_16, _ANY, "                      C  A  C  A  A  C"),
    (Op.WRITE_6, _ANY, "                        C  C  C  A  C  C"),
    (Op.WRITE_10, _ANY, "                       C  C  C  A  C  C"),
    (Op.WRITE_12, _ANY, "                       C  C  C  A  C  C"),
    (Op.WRITE_16, _ANY, "                       C  C  C  A  C  C"),
    (Op.WRITE_AND_VERIFY_10, _ANY, "            C  C  C  A  C  C"),
    (Op.WRITE_AND_VERIFY_12, _ANY, "            C  C  C  A  C  C"),
    (Op.WRITE_AND_VERIFY_16, _ANY, "            C  C  C  A  C  C"),
    (Op.WRITE_SAME_10, _ANY, "                  C  C  C  A  C  C"),
    (Op.WRITE_SAME_16, _ANY, "                  C  C  C  A  C  C"),
    (Op.EXTENDED_COPY, _Copy.WRITE_USING_TOKEN, "C  C  C  A  C  C"),
)

# SPC-4 table 66: a persistent reservation is held by another I_T nexus. registered, not registered
_OUT_TABLE: dict[OutServiceAction, str] = {
    OutServiceAction.CLEAR: "                            A C",
    OutServiceAction.PREEMPT: "                          A C",
    OutServiceAction.PREEMPT_AND_ABORT: "                A C",
    OutServiceAction.REGISTER: "                         A A",
    OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY: " A A",
    OutServiceAction.REGISTER_AND_MOVE: "                C C",
    OutServiceAction.RELEASE: "                          A C",
    OutServiceAction.RESERVE: "                          C C",
}

_COLUMNS: dict[tuple[ReservationType, Standing], int] = {
    (ReservationType.WRITE_EXCLUSIVE, Standing.NOT_REGISTERED): 1,
    (ReservationType.WRITE_EXCLUSIVE, Standing.REGISTERED): 1,
    (ReservationType.EXCLUSIVE_ACCESS, Standing.NOT_REGISTERED): 2,
    (ReservationType.EXCLUSIVE_ACCESS, Standing.REGISTERED): 2,
    (ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Standing.REGISTERED): 3,
    (ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY, Standing.REGISTERED): 3,
    (ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Standing.REGISTERED): 3,
    (ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, Standing.REGISTERED): 3,
    (ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Standing.NOT_REGISTERED): 4,
    (ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Standing.NOT_REGISTERED): 4,
    (ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY, Standing.NOT_REGISTERED): 5,
    (ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, Standing.NOT_REGISTERED): 5,
}


def _service_action(cdb: bytes) -> int:
    return cdb[1] & 0x1F if len(cdb) > 1 else 0


def _start_stop(cdb: bytes) -> int:
    operation = cdb[4] if len(cdb) > 4 else 0
    return _START if operation & 0xF1 == 0x01 else _STOP


def _prevent_allow(cdb: bytes) -> int:
    return _PREVENT if len(cdb) > 4 and cdb[4] & 0x03 else _ALLOW


_VARIANT: dict[int, Callable[[bytes], int]] = {
    Op.EXTENDED_COPY: _service_action,
    Op.MAINTENANCE_IN: _service_action,
    Op.MAINTENANCE_OUT: _service_action,
    Op.SERVICE_ACTION_IN_16: _service_action,
    Op.START_STOP_UNIT: _start_stop,
    Op.PREVENT_ALLOW_MEDIUM_REMOVAL: _prevent_allow,
}


def _passing(column: int) -> frozenset[tuple[int, int | None]]:
    return frozenset((int(op), variant) for op, variant, cells in _TABLE if cells.split()[column] == "A")


_PASSES = {key: _passing(column) for key, column in _COLUMNS.items()}
_PASSES_LEGACY = _passing(0)


def _row(cdb: bytes) -> tuple[int, int | None]:
    variant = _VARIANT.get(cdb[0])
    return cdb[0], variant(cdb) if variant else None


def allowed(cdb: bytes, reservation_type: ReservationType, standing: Standing) -> bool:
    """Whether a persistent reservation allows a command (SPC-4 table 65, SBC-4 table 13).

    For PERSISTENT RESERVE OUT call `out_allowed` instead; RESERVE and RELEASE follow `holdover.lun.legacy`.

    Args:
        cdb: The CDB, at least one byte.
        reservation_type: The type of the logical unit's reservation.
        standing: The standing of the I_T nexus that sent the command. For the all registrants types every
            registered I_T nexus is a holder.
    """
    return standing is Standing.HOLDER or _row(cdb) in _PASSES[reservation_type, standing]


def allowed_beside_reserve(cdb: bytes) -> bool:
    """Whether the RESERVE(6) or RESERVE(10) of another I_T nexus allows a command (SPC-2 5.5.1)."""
    return _row(cdb) in _PASSES_LEGACY


def out_allowed(service_action: OutServiceAction, registered: bool) -> bool:
    """Whether an I_T nexus that is not a reservation holder may send this service action (SPC-4 table 66)."""
    return _OUT_TABLE[service_action].split()[0 if registered else 1] == "A"
